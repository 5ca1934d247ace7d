"""A format for tests: `<think>…</think>` and `<tool_call>JSON</tool_call>` around plain text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from windlass_server.formats.events import (
    ContentText,
    Event,
    ReasoningText,
    ToolCallArguments,
    ToolCallStart,
)

if TYPE_CHECKING:
    from windlass.request import StructuredOutputs
    from windlass_server.chat.call import ChatCall

THINK, CALL = "think", "tool_call"


class TaggedParser:
    """Holds back what may be a tag, and a call until it is complete."""

    def __init__(self, tags: tuple[str, ...], inside: str | None) -> None:
        self._tags = tags
        self._inside = inside
        self._held = ""
        self._calls = 0

    def feed(self, text: str) -> list[Event]:
        """Return what `text` completes."""
        self._held += text
        events: list[Event] = []
        while True:
            tags = [f"</{self._inside}>"] if self._inside else [f"<{tag}>" for tag in self._tags]
            found = [(self._held.find(tag), tag) for tag in tags if tag in self._held]
            if not found:
                break
            at, tag = min(found)
            events += self._events(self._held[:at])
            self._held = self._held[at + len(tag) :]
            self._inside = None if self._inside else tag[1:-1]
        if self._inside != CALL:
            keep = max(n for tag in tags for n in range(len(tag)) if self._held.endswith(tag[:n]))
            border = len(self._held) - keep
            events += self._events(self._held[:border])
            self._held = self._held[border:]
        return events

    def finish(self) -> list[Event]:
        """Return what was held back."""
        return [] if self._inside == CALL else self._events(self._held)

    def _events(self, text: str) -> list[Event]:
        if not text:
            return []
        if self._inside is None:
            return [ContentText(text)]
        if self._inside == THINK:
            return [ReasoningText(text)]
        call, index = json.loads(text), self._calls
        self._calls += 1
        arguments = json.dumps(call["arguments"])
        pieces = [ToolCallArguments(index, piece) for piece in (arguments[:3], arguments[3:])]
        return [ToolCallStart(index, call["name"]), *pieces]


class TaggedFormat:
    """The format; it binds calls to nothing."""

    name = "tagged"
    keeps_special_tokens = False
    has_tools = True
    has_reasoning_budget = False

    def prepared(self, call: ChatCall) -> ChatCall:
        """Return the call as it is."""
        return call

    def parser(self, tools: Sequence[dict[str, Any]], *, in_reasoning: bool) -> TaggedParser:
        """Return a parser of one answer."""
        return TaggedParser((THINK, CALL) if tools else (THINK,), THINK if in_reasoning else None)

    def constraint(self, call: ChatCall, *, in_reasoning: bool) -> StructuredOutputs | None:
        """Return what the call itself asks for."""
        return call.sampling.structured_outputs

    def starts_in_reasoning(self, prompt: str) -> bool:
        """Whether the prompt ends with an opened thought."""
        return prompt.endswith("<think>")
