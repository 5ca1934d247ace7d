"""A `ChatTurn` as a chat completion, whole or in chunks."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import msgspec
from msgspec import UNSET, UnsetType

from windlass.request import FinishReason, TokenLogprobs
from windlass.text import Tokenizer
from windlass_server.chat.answer import ChatAnswer, new_id, whole_answers
from windlass_server.chat.turn import ChatTurn, TurnNews
from windlass_server.formats.events import ContentText, Event, ReasoningText, ToolCallStart
from windlass_server.logprobs import chat_logprobs
from windlass_server.protocol.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    Choice,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
    FunctionCall,
    ResponseMessage,
    ResponseToolCall,
    ToolCallDelta,
)
from windlass_server.protocol.usage import Usage
from windlass_server.streaming import event

_encode = msgspec.json.Encoder().encode


class ChatCompletionShape:
    """Shapes one turn for the client that sent `body`."""

    def __init__(
        self, body: ChatCompletionRequest, tokenizer: Tokenizer, turn: ChatTurn, *, named: bool
    ) -> None:
        self._body = body
        self._tokenizer = tokenizer
        self._turn = turn
        self._named = named
        self._id = new_id("chatcmpl-")
        self._created = int(time.time())
        self._tier: str | UnsetType = UNSET if body.service_tier is None else "default"
        self._calling: set[int] = set()
        self._started: set[int] = set()
        self._plain = not (body.logprobs or body.return_token_ids or body.wants_continuous_usage)
        self._frames: dict[int, tuple[bytes, bytes]] = {}

    async def whole(self) -> ChatCompletion:
        """Wait for every choice and return the answer."""
        answers = await whole_answers(self._turn)
        prompt_logprobs = self._turn.prompt_logprobs
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._body.model,
            choices=[self._choice(index, answer) for index, answer in enumerate(answers)],
            usage=self._turn.usage(),
            service_tier=self._tier,
            prompt_logprobs=UNSET if prompt_logprobs is None else prompt_logprobs,
            prompt_token_ids=self._prompt_token_ids(),
        )

    def _choice(self, index: int, answer: ChatAnswer) -> Choice:
        calls = [
            ResponseToolCall(call.id or new_id("call_"), FunctionCall(call.arguments, call.name))
            for call in answer.tool_calls.values()
        ]
        message = ResponseMessage(answer.content or (None if calls else ""))
        if answer.reasoning:
            message.reasoning = message.reasoning_content = answer.reasoning
        if calls:
            message.tool_calls = calls
        assert answer.finish_reason is not None
        return Choice(
            index=index,
            message=message,
            logprobs=self._logprobs(answer.logprobs),
            finish_reason=self._finish_reason(answer.finish_reason, bool(calls)),
            token_ids=answer.token_ids if self._body.return_token_ids else UNSET,
        )

    def _finish_reason(self, reason: FinishReason, calls: bool) -> str:
        """A call that the client named itself ends with "stop", as it does at OpenAI."""
        return "tool_calls" if calls and reason == "stop" and not self._named else reason

    def _prompt_token_ids(self) -> list[int] | UnsetType:
        return self._turn.prompt["prompt_token_ids"] if self._body.return_token_ids else UNSET

    def _logprobs(self, positions: list[TokenLogprobs] | None) -> ChoiceLogprobs | None:
        if not self._body.logprobs:
            return None
        return ChoiceLogprobs(
            chat_logprobs(
                positions or [],
                self._body.top_logprobs or 0,
                self._tokenizer,
                as_ids=bool(self._body.return_tokens_as_token_ids),
            )
        )

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the answer as server-sent events."""
        async with aclosing(self._turn.news()) as steps:
            async for step in steps:
                data = b"".join([part for news in step for part in self._parts(news)])
                if data:
                    yield data
        if self._body.wants_usage:
            yield event(self._envelope([], self._turn.usage()))

    def _parts(self, news: TurnNews) -> Iterator[bytes]:
        """Yield the chunks of one choice's news: none when its tokens completed no text."""
        index = news.index
        if index not in self._started:
            self._started.add(index)
            yield self._first(index)
        if self._plain and len(news.events) == 1 and type(news.events[0]) is ContentText:
            head, tail = self._frame(index)
            yield head + _encode(news.events[0].text) + tail
        else:
            yield from self._detailed(news)
        if news.finish_reason is not None:
            reason = self._finish_reason(news.finish_reason, index in self._calling)
            yield self._chunk(ChunkChoice(index, Delta(), finish_reason=reason))

    def _first(self, index: int) -> bytes:
        first = ChunkChoice(index, Delta(role="assistant", content=""))
        envelope = self._envelope([first], self._continuous_usage())
        envelope.prompt_token_ids = self._prompt_token_ids()
        return event(envelope)

    def _detailed(self, news: TurnNews) -> Iterator[bytes]:
        """Yield one chunk per event; what belongs to the tokens goes out with the first."""
        choices = [ChunkChoice(news.index, delta) for delta in self._deltas(news)]
        with_tokens = news.token_ids and (self._body.logprobs or self._body.return_token_ids)
        if with_tokens and not choices:
            choices.append(ChunkChoice(news.index, Delta()))
        if with_tokens:
            choices[0].logprobs = self._logprobs(news.logprobs)
            if self._body.return_token_ids:
                choices[0].token_ids = news.token_ids
        for choice in choices:
            yield self._chunk(choice)

    def _deltas(self, news: TurnNews) -> Iterator[Delta]:
        for item in news.events:
            if isinstance(item, ContentText):
                yield Delta(content=item.text)
            elif isinstance(item, ReasoningText):
                yield Delta(reasoning=item.text, reasoning_content=item.text)
            else:
                self._calling.add(news.index)
                yield Delta(tool_calls=[_call_delta(item)])

    def _frame(self, index: int) -> tuple[bytes, bytes]:
        """Return what stands before and behind the text in a chunk that holds only text."""
        frame = self._frames.get(index)
        if frame is None:
            mark = "\x01"
            chunk = self._chunk(ChunkChoice(index, Delta(content=mark)))
            head, tail = chunk.split(_encode(mark))
            frame = self._frames[index] = head, tail
        return frame

    def _chunk(self, choice: ChunkChoice) -> bytes:
        return event(self._envelope([choice], self._continuous_usage()))

    def _continuous_usage(self) -> Usage | None:
        return self._turn.usage() if self._body.wants_continuous_usage else None

    def _envelope(
        self, choices: list[ChunkChoice], usage: Usage | None = None
    ) -> ChatCompletionChunk:
        chunk = ChatCompletionChunk(self._id, self._created, self._body.model, choices)
        chunk.service_tier = self._tier
        if self._body.wants_usage:
            chunk.usage = usage
        return chunk


def _call_delta(item: Event) -> ToolCallDelta:
    if isinstance(item, ToolCallStart):
        function = FunctionCall("", item.name)
        return ToolCallDelta(item.index, item.id or new_id("call_"), "function", function)
    assert not isinstance(item, ContentText | ReasoningText)
    return ToolCallDelta(item.index, function=FunctionCall(item.text))
