"""Reads one answer: reasoning, text and tool calls, as they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from windlass_server.formats.events import (
    ContentText,
    Event,
    ReasoningText,
    ToolCallArguments,
    ToolCallStart,
)
from windlass_server.formats.reader import MismatchError, Reader, Reading

if TYPE_CHECKING:
    from windlass_server.formats.syntax import ToolSyntax


_Piece = ContentText | ReasoningText | ToolCallArguments


@dataclass(frozen=True)
class ReasoningTags:
    """What stands around a model's reasoning."""

    open: str
    close: str


class AnswerParser:
    """One answer of a model that writes `reasoning` and calls in `syntax`, either of them or none.

    `tools` are those that may be called, by name; `dropped` are special tokens that are no text.
    Fed with pieces of text it returns what they complete; how the text is cut makes no difference
    to what all events together say.
    """

    def __init__(
        self,
        syntax: ToolSyntax | None,
        reasoning: ReasoningTags | None,
        tools: Sequence[dict[str, Any]],
        *,
        dropped: tuple[str, ...] = (),
        in_reasoning: bool = False,
    ) -> None:
        self.reader = Reader()
        self.tools = {tool["function"]["name"]: tool["function"] for tool in tools}
        self._syntax = syntax if tools else None
        self._reasoning = reasoning
        self._dropped = dropped
        self._events: list[Event] = []
        self._kind: type[_Piece] = ContentText
        self._pieces: list[str] = []
        self._calls = 0
        self._running: Reading[None] | None = self._read(in_reasoning)
        self._advance()

    def feed(self, text: str) -> list[Event]:
        """Return what `text` completes."""
        self.reader.add(text)
        return self._advance()

    def finish(self) -> list[Event]:
        """Return what was held back, at the end of the text."""
        self.reader.ended = True
        return self._advance()

    def _advance(self) -> list[Event]:
        if self._running is not None:
            try:
                next(self._running)
            except StopIteration:
                self._running = None
        self._put()
        events, self._events = self._events, []
        return events

    # -- what the parts of a format say ---------------------------------------------------

    def content(self, text: str) -> None:
        """Text for the reader."""
        self._say(ContentText, text)

    def thought(self, text: str) -> None:
        """Text of the reasoning."""
        self._say(ReasoningText, text)

    def begin_call(self, name: str, call_id: str | None = None) -> None:
        """A call begins: from here on nothing is given back as text."""
        self._put()
        self.reader.record = None
        self._events.append(ToolCallStart(self._calls, name, call_id))
        self._calls += 1

    def arguments(self, text: str) -> None:
        """A piece of the arguments of the call that began last."""
        self._say(ToolCallArguments, text)

    def _say(self, kind: type[_Piece], text: str) -> None:
        if kind is not self._kind:
            self._put()
            self._kind = kind
        self._pieces.append(text)

    def _put(self) -> None:
        """Make one event of the pieces of a kind that came one after the other."""
        text = "".join(self._pieces)
        self._pieces.clear()
        if text and self._kind is ToolCallArguments:
            self._events.append(ToolCallArguments(self._calls - 1, text))
        elif text:
            self._events.append(
                ContentText(text) if self._kind is ContentText else ReasoningText(text)
            )

    # -- the answer -----------------------------------------------------------------------

    def _read(self, in_reasoning: bool) -> Reading[None]:
        if in_reasoning:
            yield from self._think()
        syntax, tags = self._syntax, self._reasoning
        opens = (tags.open,) if tags else ()
        calls = syntax.markers if syntax else ()
        closes = (tags.close,) if tags else ()
        markers = (*opens, *calls, *(m for m in (*closes, *self._dropped) if m not in calls))
        if tags and not in_reasoning:
            yield from self._leading_thought(tags)
        if syntax is not None and syntax.at_start:
            yield from self._attempt("", syntax)
        while (marker := (yield from self.reader.until(markers, self.content))) is not None:
            if marker in opens:
                yield from self._think()
            elif syntax is not None and marker in calls:
                yield from self._attempt(marker, syntax)

    def _leading_thought(self, tags: ReasoningTags) -> Reading[None]:
        """Reasoning that stands before everything, with white space before it."""
        self.reader.record = []
        yield from self.reader.skip_space()
        space, self.reader.record = "".join(self.reader.record), None
        if (yield from self.reader.starts_with(tags.open)):
            yield from self._think()
        elif not (self._syntax is not None and self._syntax.at_start):
            self.content(space)

    def _think(self) -> Reading[None]:
        assert self._reasoning is not None
        yield from self.reader.until((self._reasoning.close, *self._dropped), self.thought)

    def _attempt(self, marker: str, syntax: ToolSyntax) -> Reading[None]:
        """Read calls behind `marker`; what turns out to be none is text after all."""
        self.reader.record = [marker]
        try:
            yield from syntax.read(self, marker)
        except MismatchError:
            self.content("".join(self.reader.record or ()))
        self.reader.record = None
