"""One whole answer, put together from its news."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field
from uuid import uuid4

from windlass.request import FinishReason, TokenLogprobs
from windlass_server.chat.turn import ChatTurn, TurnNews
from windlass_server.formats.events import ContentText, ReasoningText, ToolCallStart

ID_MARK: ContextVar[str] = ContextVar("ID_MARK", default="")
"""Stands in all ids that a request makes: what of it is kept is found by that."""


def new_id(prefix: str) -> str:
    """Return a fresh id, say of a tool call whose format has none."""
    return f"{prefix}{ID_MARK.get()}{uuid4().hex[:24]}"


@dataclass(slots=True)
class ToolCall:
    """A call that the model made; `arguments` is JSON text."""

    id: str | None
    name: str
    pieces: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        """The arguments as JSON text, which may be cut off, or not have begun."""
        return "".join(self.pieces)


@dataclass(slots=True)
class ChatAnswer:
    """One of the `n` answers."""

    reasoning_pieces: list[str] = field(default_factory=list)
    content_pieces: list[str] = field(default_factory=list)
    tool_calls: dict[int, ToolCall] = field(default_factory=dict)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None

    def add(self, news: TurnNews) -> None:
        """Append what is new."""
        for event in news.events:
            if isinstance(event, ContentText):
                self.content_pieces.append(event.text)
            elif isinstance(event, ReasoningText):
                self.reasoning_pieces.append(event.text)
            elif isinstance(event, ToolCallStart):
                self.tool_calls[event.index] = ToolCall(event.id, event.name)
            else:
                self.tool_calls[event.index].pieces.append(event.text)
        self.token_ids += news.token_ids
        self.logprobs += news.logprobs or ()
        self.finish_reason = news.finish_reason or self.finish_reason
        self.stop_reason = news.stop_reason or self.stop_reason

    @property
    def content(self) -> str:
        """The text for the reader."""
        return "".join(self.content_pieces)

    @property
    def reasoning(self) -> str:
        """The text of the model's reasoning."""
        return "".join(self.reasoning_pieces)


async def whole_answers(turn: ChatTurn) -> list[ChatAnswer]:
    """Wait for every answer of a turn."""
    answers = [ChatAnswer() for _ in range(turn.n)]
    source: AsyncGenerator[list[TurnNews], None] = turn.news()
    async with aclosing(source) as steps:
        async for step in steps:
            for news in step:
                answers[news.index].add(news)
    return answers
