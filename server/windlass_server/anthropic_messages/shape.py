"""A `ChatTurn` as an Anthropic message: blocks, and the events that tell of them, in one pass."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from windlass_server.chat.answer import new_id
from windlass_server.chat.turn import ChatTurn, TurnNews
from windlass_server.formats.events import (
    ContentText,
    Event,
    ReasoningText,
    ToolCallArguments,
    ToolCallStart,
)
from windlass_server.protocol.messages import (
    BlockDelta,
    BlockStart,
    BlockStop,
    InputDelta,
    Message,
    MessageDelta,
    MessageStart,
    MessageStop,
    MessageUsage,
    Ping,
    ResponseBlock,
    SignatureDelta,
    StopDelta,
    StreamEvent,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ThinkingParam,
    ThinkingTokens,
    ToolUseBlock,
)
from windlass_server.streaming import named_event

PING = named_event("ping", Ping())

_encode = msgspec.json.Encoder().encode
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}
_EMPTY: dict[type[ResponseBlock], TextDelta | ThinkingDelta | InputDelta] = {
    TextBlock: TextDelta(""),
    ThinkingBlock: ThinkingDelta(""),
    ToolUseBlock: InputDelta(""),
}


class MessageShape:
    """Builds a message from a turn, and its events as bytes.

    What the model thinks has a block only if `thinking` was wanted, and text in it only if that
    was not to be omitted.
    """

    def __init__(self, model: str, turn: ChatTurn, thinking: ThinkingParam | None) -> None:
        self._turn = turn
        self._no_thinking = thinking is None or thinking.type == "disabled"
        self._no_thoughts = thinking is not None and thinking.display == "omitted"
        self._message = Message(new_id("msg_"), model, [], MessageUsage(0, 0, 0))
        self._started = False
        self._open: ResponseBlock | None = None
        self._pieces: list[str] = []
        self._frame = (b"", b"")
        self._written: list[bytes] = []

    async def whole(self) -> Message:
        """Wait for the end and return the message."""
        async with aclosing(self.events()) as events:
            async for _ in events:
                pass
        return self._message

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the message as server-sent events."""
        async with aclosing(self._turn.news()) as steps:
            async for step in steps:
                for news in step:
                    self._take(news)
                if self._written:
                    data = b"".join(self._written)
                    self._written.clear()
                    yield data

    def _emit(self, data: StreamEvent) -> None:
        self._written.append(named_event(data.type, data))

    def _take(self, news: TurnNews) -> None:
        if not self._started:
            self._started = True
            self._message.usage = self._usage()
            self._emit(MessageStart(self._message))
            self._written.append(PING)
        for item in news.events:
            self._take_event(item)
        if news.finish_reason is not None:
            self._finish(news)

    def _take_event(self, item: Event) -> None:
        if isinstance(item, ContentText):
            if type(self._open) is not TextBlock:
                self._begin(TextBlock(""))
            self._delta(item.text)
        elif isinstance(item, ReasoningText):
            if self._no_thinking:
                return
            if type(self._open) is not ThinkingBlock:
                self._begin(ThinkingBlock(""))
            if not self._no_thoughts:
                self._delta(item.text)
        elif isinstance(item, ToolCallStart):
            self._begin(ToolUseBlock(item.id or new_id("toolu_"), item.name, {}))
        else:
            assert isinstance(item, ToolCallArguments)
            self._delta(item.text)

    def _delta(self, text: str) -> None:
        """Write a delta that differs from the block's last one in nothing but its text."""
        self._pieces.append(text)
        head, tail = self._frame
        self._written.append(b"".join((head, _encode(text), tail)))

    def _begin(self, block: ResponseBlock) -> None:
        self._close()
        content = self._message.content
        index = len(content)
        self._emit(BlockStart(index, block))
        content.append(block)
        self._open = block
        empty = named_event("content_block_delta", BlockDelta(index, _EMPTY[type(block)]))
        head, _, tail = empty.partition(b'""')
        self._frame = head, tail

    def _close(self) -> None:
        """Complete the open block, if there is one."""
        block, self._open = self._open, None
        if block is None:
            return
        index, text = len(self._message.content) - 1, "".join(self._pieces)
        self._pieces.clear()
        if isinstance(block, ToolUseBlock):
            block.input = _input(text)
        elif isinstance(block, ThinkingBlock):
            block.thinking = text
            self._emit(BlockDelta(index, SignatureDelta()))
        else:
            block.text = text
        self._emit(BlockStop(index))

    def _finish(self, news: TurnNews) -> None:
        message = self._message
        if not message.content:
            self._begin(TextBlock(""))
        self._close()
        reason = _STOP_REASONS[str(news.finish_reason)]
        if isinstance(news.stop_reason, str):
            reason, message.stop_sequence = "stop_sequence", news.stop_reason
        elif reason == "end_turn" and any(type(b) is ToolUseBlock for b in message.content):
            reason = "tool_use"
        message.stop_reason = reason
        message.usage = self._usage()
        message.usage.output_tokens_details = ThinkingTokens(
            self._turn.usage().completion_tokens_details.reasoning_tokens
        )
        usage = msgspec.structs.replace(message.usage, service_tier=msgspec.UNSET)
        self._emit(MessageDelta(StopDelta(reason, message.stop_sequence), usage))
        self._emit(MessageStop())

    def _usage(self) -> MessageUsage:
        usage = self._turn.usage()
        cached = usage.prompt_tokens_details.cached_tokens
        return MessageUsage(usage.prompt_tokens - cached, usage.completion_tokens, cached)


def _input(text: str) -> msgspec.Raw | dict[str, object]:
    """Return a call's input; what the length limit cut off in its middle is no JSON, and empty."""
    try:
        value = msgspec.json.decode(text) if text else {}
    except (msgspec.DecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
