"""A `ChatTurn` as a response: items and the events that tell of them, in one pass for both."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

import msgspec

from windlass.request import FinishReason, TokenLogprobs
from windlass.text import Tokenizer
from windlass_server.chat.answer import new_id
from windlass_server.chat.turn import ChatTurn, TurnNews
from windlass_server.errors import ApiError
from windlass_server.formats.events import (
    ContentText,
    Event,
    ReasoningText,
    ToolCallArguments,
    ToolCallStart,
)
from windlass_server.logprobs import chat_logprobs
from windlass_server.protocol.chat import TokenLogprob
from windlass_server.protocol.response_events import (
    ArgumentsDelta,
    ArgumentsDone,
    ItemEvent,
    PartEvent,
    ReasoningDelta,
    ReasoningDone,
    ResponseEvent,
    TextDelta,
    TextDone,
)
from windlass_server.protocol.response_events import Event as WireEvent
from windlass_server.protocol.response_objects import (
    IncompleteDetails,
    InputTokensDetails,
    OutputFunctionCall,
    OutputItem,
    OutputMessage,
    OutputReasoning,
    OutputText,
    OutputTokensDetails,
    ReasoningPart,
    Response,
    ResponseFailure,
    ResponseUsage,
)
from windlass_server.protocol.usage import Usage
from windlass_server.responses.items import seal
from windlass_server.streaming import named_event

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Open:
    """The item that is being written, and what its deltas look like around their text."""

    item: OutputItem
    index: int
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    frame: tuple[bytes, bytes] = (b"", b"")

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class ResponseShape:
    """Builds `response` from a turn, and its events as bytes.

    `sealed` puts the reasoning into `encrypted_content` too. With `top_logprobs` None there are
    no log-probabilities.
    """

    def __init__(
        self,
        response: Response,
        turn: ChatTurn,
        tokenizer: Tokenizer,
        *,
        top_logprobs: int | None,
        sealed: bool,
    ) -> None:
        self.response = response
        self._turn = turn
        self._tokenizer = tokenizer
        self._top_logprobs = top_logprobs
        self._sealed = sealed
        self._sequence = 0
        self._open: _Open | None = None
        self._written: list[bytes] = []
        self._pending: list[TokenLogprobs] = []

    async def whole(self) -> Response:
        """Wait for the end and return the response."""
        async with aclosing(self.events()) as events:
            async for _ in events:
                pass
        return self.response

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the response as server-sent events, its last state at the end.

        Raises:
            WindlassError, ApiError: the turn failed; `failed_event` tells of it.
        """
        response = self.response
        self._emit(ResponseEvent("response.created", self._sequence, response))
        if response.status == "queued":
            self._emit(ResponseEvent("response.queued", self._sequence, response))
            response.status = "in_progress"
        self._emit(ResponseEvent("response.in_progress", self._sequence, response))
        async with aclosing(self._turn.news()) as steps:
            async for step in steps:
                for news in step:
                    self._take(news)
                if self._written:
                    yield self._taken()
        yield self._taken()

    def failed_event(self, error: ApiError) -> bytes:
        """End the response with an error; returns the event."""
        response = self.response
        self._close("incomplete")
        response.status = "failed"
        response.error = ResponseFailure("server_error", error.error.message)
        self._emit(ResponseEvent("response.failed", self._sequence, response))
        return self._taken()

    def cancel(self) -> None:
        """End the response as its client wished."""
        self._close("incomplete")
        self.response.status = "cancelled"
        self._written.clear()

    async def aclose(self) -> None:
        """Abort what has not finished."""
        await self._turn.aclose()

    # -- writing ---------------------------------------------------------------------------

    def _emit(self, wire: WireEvent) -> None:
        self._written.append(named_event(wire.type, wire))
        self._sequence += 1

    def _taken(self) -> bytes:
        data = b"".join(self._written)
        self._written.clear()
        return data

    def _take(self, news: TurnNews) -> None:
        if self._top_logprobs is not None:
            self._pending += news.logprobs or ()
        for item in news.events:
            self._take_event(item)
        if news.finish_reason is not None:
            self._finish(news.finish_reason)

    def _take_event(self, item: Event) -> None:
        if isinstance(item, ContentText):
            opened = self._open
            if opened is None or type(opened.item) is not OutputMessage:
                opened = self._open_message()
            self._text_delta(opened, item.text)
        elif isinstance(item, ReasoningText):
            opened = self._open
            if opened is None or type(opened.item) is not OutputReasoning:
                opened = self._open_reasoning()
            self._pending.clear()
            self._framed_delta(opened, item.text)
        elif isinstance(item, ToolCallStart):
            self._pending.clear()
            self._open_call(item)
        else:
            assert isinstance(item, ToolCallArguments)
            assert self._open is not None
            self._pending.clear()
            self._framed_delta(self._open, item.text)

    def _text_delta(self, opened: _Open, text: str) -> None:
        if self._top_logprobs is None:
            self._framed_delta(opened, text)
            return
        logprobs = chat_logprobs(self._pending, self._top_logprobs, self._tokenizer)
        self._pending.clear()
        opened.pieces.append(text)
        opened.logprobs += logprobs
        self._emit(TextDelta(self._sequence, opened.item.id, opened.index, text, logprobs))

    def _framed_delta(self, opened: _Open, text: str) -> None:
        """Write a delta that differs from the item's last one in nothing but text and number."""
        opened.pieces.append(text)
        head, tail = opened.frame
        number = str(self._sequence).encode()
        self._written.append(b"".join((head, number, b',"delta":', _encode(text), tail)))
        self._sequence += 1

    # -- items -----------------------------------------------------------------------------

    def _begin(
        self, item: OutputItem, delta: type[TextDelta | ReasoningDelta | ArgumentsDelta]
    ) -> _Open:
        self._close("completed")
        output = self.response.output
        output.append(item)
        opened = self._open = _Open(item, len(output) - 1)
        opened.frame = _frame(delta(0, item.id, opened.index, ""))
        self._emit(ItemEvent("response.output_item.added", self._sequence, opened.index, item))
        return opened

    def _open_message(self) -> _Open:
        opened = self._begin(OutputMessage(new_id("msg_"), "in_progress", []), TextDelta)
        self._part("added", opened, OutputText(""))
        return opened

    def _open_reasoning(self) -> _Open:
        opened = self._begin(OutputReasoning(new_id("rs_"), "in_progress", []), ReasoningDelta)
        self._part("added", opened, ReasoningPart(""))
        return opened

    def _open_call(self, start: ToolCallStart) -> _Open:
        call_id = start.id or new_id("call_")
        call = OutputFunctionCall(new_id("fc_"), "in_progress", call_id, start.name)
        return self._begin(call, ArgumentsDelta)

    def _part(self, state: str, opened: _Open, part: OutputText | ReasoningPart) -> None:
        name = f"response.content_part.{state}"
        self._emit(PartEvent(name, self._sequence, opened.item.id, opened.index, part))

    def _close(self, status: str) -> None:
        """Complete the open item, if there is one."""
        opened, self._open = self._open, None
        if opened is None:
            return
        item, index, text = opened.item, opened.index, opened.text
        if isinstance(item, OutputMessage):
            self._emit(TextDone(self._sequence, item.id, index, text, opened.logprobs))
            item.content = [OutputText(text, logprobs=opened.logprobs)]
            self._part("done", opened, item.content[0])
        elif isinstance(item, OutputReasoning):
            self._emit(ReasoningDone(self._sequence, item.id, index, text))
            item.content = [ReasoningPart(text)]
            self._part("done", opened, item.content[0])
            if self._sealed:
                item.encrypted_content = seal(text)
        else:
            item.arguments = text
            self._emit(ArgumentsDone(self._sequence, item.id, index, item.name, item.arguments))
        item.status = status
        self._emit(ItemEvent("response.output_item.done", self._sequence, index, item))

    def _finish(self, reason: FinishReason) -> None:
        response = self.response
        if not response.output:
            self._open_message()
        complete = reason != "length"
        status = response.status = "completed" if complete else "incomplete"
        self._close(status)
        if complete:
            response.completed_at = int(time.time())
        else:
            response.incomplete_details = IncompleteDetails("max_output_tokens")
        response.usage = _usage(self._turn.usage())
        self._emit(ResponseEvent(f"response.{status}", self._sequence, response))


def _frame(delta: TextDelta | ReasoningDelta | ArgumentsDelta) -> tuple[bytes, bytes]:
    """Return what stands before the number of a delta, and behind its text."""
    fields = msgspec.structs.asdict(delta)
    kind = fields.pop("type")
    for name in ("sequence_number", "delta"):
        del fields[name]
    head = b"event: " + kind.encode() + b'\ndata: {"type":' + _encode(kind)
    return head + b',"sequence_number":', b"," + _encode(fields)[1:] + b"\n\n"


def _usage(usage: Usage) -> ResponseUsage:
    return ResponseUsage(
        usage.prompt_tokens,
        InputTokensDetails(usage.prompt_tokens_details.cached_tokens),
        usage.completion_tokens,
        OutputTokensDetails(usage.completion_tokens_details.reasoning_tokens),
        usage.total_tokens,
    )
