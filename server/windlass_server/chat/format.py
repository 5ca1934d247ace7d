"""What a turn needs of the format in which a model writes, and the format of plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from windlass_server.formats.events import ContentText, Event

if TYPE_CHECKING:
    from windlass.request import StructuredOutputs
    from windlass_server.chat.call import ChatCall


class OutputParser(Protocol):
    """Reads one answer: the events are the same however the text is cut."""

    def feed(self, text: str) -> list[Event]:
        """Return what `text` completes."""
        ...

    def finish(self) -> list[Event]:
        """Return what was held back, at the end of the text."""
        ...


class ChatFormat(Protocol):
    """How one kind of model writes reasoning and calls.

    With `keeps_special_tokens` the parser needs special tokens in the text. `has_tools` and
    `has_reasoning_budget` say what `constraint` can do.
    """

    @property
    def name(self) -> str:
        """What the format is called."""
        ...

    @property
    def keeps_special_tokens(self) -> bool:
        """Whether special tokens have to be in the text."""
        ...

    @property
    def has_tools(self) -> bool:
        """Whether calls can be read."""
        ...

    @property
    def has_reasoning_budget(self) -> bool:
        """Whether reasoning can be bounded."""
        ...

    def prepared(self, call: ChatCall) -> ChatCall:
        """Return the call as the model's template can show it."""
        ...

    def parser(self, tools: Sequence[dict[str, Any]], *, in_reasoning: bool) -> OutputParser:
        """Return a parser of one answer."""
        ...

    def constraint(self, call: ChatCall, *, in_reasoning: bool) -> StructuredOutputs | None:
        """Return what keeps the model to the call's tools and format."""
        ...

    def starts_in_reasoning(self, prompt: str) -> bool:
        """Whether the prompt's end has begun the model's reasoning."""
        ...


class PlainParser:
    """Takes everything as text for the reader."""

    def feed(self, text: str) -> list[Event]:
        """Return the text."""
        return [ContentText(text)]

    def finish(self) -> list[Event]:
        """Return nothing: nothing is held back."""
        return []


class PlainFormat:
    """A model that writes neither reasoning nor calls."""

    name = "plain"
    keeps_special_tokens = False
    has_tools = False
    has_reasoning_budget = False

    def prepared(self, call: ChatCall) -> ChatCall:
        """Return the call as it is."""
        return call

    def parser(self, tools: Sequence[dict[str, Any]], *, in_reasoning: bool) -> PlainParser:
        """Return a parser of one answer."""
        return PlainParser()

    def constraint(self, call: ChatCall, *, in_reasoning: bool) -> StructuredOutputs | None:
        """Return the call's own format, which binds all of the text."""
        return call.sampling.structured_outputs

    def starts_in_reasoning(self, prompt: str) -> bool:
        """Return False."""
        return False
