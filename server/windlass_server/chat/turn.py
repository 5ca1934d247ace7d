"""One turn of a conversation: rendered, submitted, and read back as reasoning, text and calls."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from windlass.errors import RequestError
from windlass.request import CompletionOutput, FinishReason, TokenLogprobs
from windlass.text import TokensPrompt
from windlass_server.chat.call import ChatCall
from windlass_server.chat.format import ChatFormat, OutputParser
from windlass_server.errors import unsupported
from windlass_server.formats.events import ContentText, Event, ReasoningText
from windlass_server.generation import Generation

if TYPE_CHECKING:
    from windlass.request import SamplingParams
    from windlass_server.access.admission import Admission
    from windlass_server.engine import Engine
    from windlass_server.protocol.usage import Usage
    from windlass_server.state import ServerState


class TurnNews(msgspec.Struct):
    """What is new in one of the `n` answers.

    `events` say what the new text means; tokens may have come without completing any. With the
    last news comes the engine's `finish_reason`, and the stop string or token as `stop_reason`.
    """

    index: int
    events: list[Event]
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


class _Choice:
    """Reads one answer: feeds its text to the parser, counts the tokens of its reasoning.

    White space between reasoning, text and calls is no content: it is held back until text
    follows, and dropped when something else does.
    """

    def __init__(self, index: int, parser: OutputParser, in_reasoning: bool, engine: Engine):
        self._index = index
        self._parser = parser
        self._in_reasoning = in_reasoning
        self._tokenizer = engine.tokenizer
        self._writing = False
        self._blank = ""
        self._silent = True
        self.reasoning_tokens = 0

    def take(self, output: CompletionOutput) -> TurnNews:
        """Return the news in `output`."""
        events = self._parser.feed(output.text) if output.text else []
        if output.finish_reason is not None:
            events = [*events, *self._parser.finish()]
        self._count(len(output.token_ids), events)
        if not self._writing or len(events) > 1 or output.finish_reason is not None:
            events = self._without_blanks(events, last=output.finish_reason is not None)
        return TurnNews(
            self._index,
            events,
            list(output.token_ids),
            output.logprobs,
            output.finish_reason,
            output.stop_reason,
        )

    def _without_blanks(self, events: list[Event], *, last: bool) -> list[Event]:
        kept: list[Event] = []
        for event in events:
            if not isinstance(event, ContentText):
                self._writing, self._blank = False, ""
                kept.append(event)
            elif self._writing:
                kept.append(event)
            elif event.text.isspace():
                self._blank += event.text
            else:
                self._writing = True
                kept.append(ContentText(self._blank + event.text))
                self._blank = ""
        self._silent = self._silent and not kept
        if last and self._silent and self._blank:
            kept.append(ContentText(self._blank))
        return kept

    def _count(self, tokens: int, events: list[Event]) -> None:
        """Count by what the tokens wrote; tokens that completed nothing go on with the last."""
        if not events:
            self.reasoning_tokens += tokens if self._in_reasoning else 0
            return
        self._in_reasoning = type(events[-1]) is ReasoningText
        thoughts = [event.text for event in events if isinstance(event, ReasoningText)]
        if thoughts and len(thoughts) < len(events):
            # News of both kinds: their border is found by writing the thoughts again.
            ids = self._tokenizer.encode("".join(thoughts), add_special_tokens=False)
            tokens = min(tokens, len(ids))
        self.reasoning_tokens += tokens if thoughts else 0


class ChatTurn:
    """A turn that the engine works on; made by `start`.

    `prompt` is what it was asked, `prompt_logprobs` what it thought of that, once known.
    """

    def __init__(self, generation: Generation, prompt: TokensPrompt, choices: list[_Choice]):
        self.prompt = prompt
        self.prompt_logprobs: list[dict[int, Any] | None] | None = None
        self._generation = generation
        self._choices = choices

    @classmethod
    async def start(
        cls, state: ServerState, engine: Engine, call: ChatCall, admission: Admission
    ) -> ChatTurn:
        """Render and submit `call`; whatever can be refused is refused here.

        Raises:
            RequestError, ApiError: nothing has been queued.
            ClientDisconnected: nobody waits for the answer.
        """
        chat_format = state.models.of(engine).chat_format
        tools = call.callable_tools
        if tools and not chat_format.has_tools:
            text = (
                "'tools' is not supported: no known format of tool calls is in the chat template."
            )
            raise unsupported("tools", text)
        if call.requires_budget and not chat_format.has_reasoning_budget:
            text = "'thinking_token_budget' is not supported: this model's reasoning is not known."
            raise unsupported("thinking_token_budget", text)
        prompt = await state.prompt(call, engine)
        in_reasoning = chat_format.starts_in_reasoning(prompt["prompt"])
        sampling = _sampling(call, chat_format, in_reasoning)
        choices = [
            _Choice(i, chat_format.parser(tools, in_reasoning=in_reasoning), in_reasoning, engine)
            for i in range(sampling.n)
        ]
        try:
            generation = await Generation.start(
                state,
                engine,
                [prompt],
                sampling,
                admission,
                priority=call.priority,
                cache_salt=call.cache_salt,
                count_max=call.count_max,
            )
        except RequestError as exc:
            raise _renamed(exc, call) from None
        return cls(generation, prompt, choices)

    @property
    def n(self) -> int:
        """The number of answers."""
        return len(self._choices)

    async def news(self) -> AsyncGenerator[list[TurnNews], None]:
        """Yield what is new, step by step, until every answer has finished.

        Raises:
            RequestFailedError, EngineDeadError, ApiError: an answer did not finish.
        """
        choices = self._choices
        async with aclosing(self._generation.outputs()) as outputs:
            async for _, output in outputs:
                if output.prompt_logprobs is not None:
                    self.prompt_logprobs = list(output.prompt_logprobs)
                yield [choices[news.index].take(news) for news in output.outputs]

    async def aclose(self) -> None:
        """Abort what has not finished; may be called twice."""
        await self._generation.aclose()

    def usage(self) -> Usage:
        """Return the tokens so far, of all answers together."""
        usage = self._generation.usage()
        reasoning = sum(choice.reasoning_tokens for choice in self._choices)
        usage.completion_tokens_details.reasoning_tokens = reasoning
        return usage


def _sampling(call: ChatCall, chat_format: ChatFormat, in_reasoning: bool) -> SamplingParams:
    changes: dict[str, Any] = {}
    if chat_format.keeps_special_tokens:
        changes["skip_special_tokens"] = False
    constraint = chat_format.constraint(call, in_reasoning=in_reasoning)
    if constraint is not call.sampling.structured_outputs:
        changes["structured_outputs"] = constraint
    return replace(call.sampling, **changes) if changes else call.sampling


def _renamed(error: RequestError, call: ChatCall) -> RequestError:
    """Return the engine's refusal under the name of the field that it comes from."""
    if error.param == "prompt":
        error.param = "messages"
    elif error.param == "structured_outputs":
        error.param = call.constraint_param or "tools"
    return error
