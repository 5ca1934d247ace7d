"""What a model's text means, piece by piece."""

from __future__ import annotations

import msgspec


class ReasoningText(msgspec.Struct):
    """A piece of what the model thinks."""

    text: str


class ContentText(msgspec.Struct):
    """A piece of the text for the reader."""

    text: str


class ToolCallStart(msgspec.Struct):
    """A call begins; `index` counts the calls of one answer, `id` is None where none is written."""

    index: int
    name: str
    id: str | None = None


class ToolCallArguments(msgspec.Struct):
    """A piece of a call's arguments, which together are JSON text."""

    index: int
    text: str


Event = ReasoningText | ContentText | ToolCallStart | ToolCallArguments
