"""A chat format: a syntax of calls and of reasoning, read and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from windlass_server.formats.grammar import Grammar
from windlass_server.formats.harmony import END, Harmony, HarmonyParser
from windlass_server.formats.history import (
    with_arguments_as_text,
    with_one_call_each,
    with_short_ids,
)
from windlass_server.formats.parser import AnswerParser, ReasoningTags
from windlass_server.formats.syntax import ToolSyntax
from windlass_server.formats.told_tools import as_text, told_in_messages

if TYPE_CHECKING:
    from windlass.request import StructuredOutputs
    from windlass_server.chat.call import ChatCall

_SHORT_IDS = ("mistral", "mistral_array")


@dataclass(frozen=True)
class ModelFormat:
    """How one kind of model writes.

    `special_tokens` maps the special tokens that may occur in an answer to their ids: those that
    the format reads, and those that end a message. `ids` are of all texts that are one token: only
    a tag that is one can end reasoning which is out of budget.

    The template shows the model the tools (`shows_tools`), and calls and results of earlier turns
    (`shows_calls`), whose arguments it may take `arguments_as_text`.
    """

    syntax: ToolSyntax | None = None
    reasoning: ReasoningTags | None = None
    special_tokens: Mapping[str, int] = field(default_factory=dict)
    shows_tools: bool = True
    shows_calls: bool = True
    arguments_as_text: bool = False
    ids: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_reasoning_budget(self) -> bool:
        """Whether the tokens of reasoning can be bounded."""
        if isinstance(self.syntax, Harmony):
            return END in self.ids
        return self.reasoning is not None and self.reasoning.close in self.ids

    @property
    def name(self) -> str:
        """The syntax of calls, or "plain"."""
        return self.syntax.name if self.syntax else "plain"

    @property
    def has_tools(self) -> bool:
        """Whether calls can be read."""
        return self.syntax is not None

    @property
    def keeps_special_tokens(self) -> bool:
        """Whether special tokens have to be in the text that the parser reads."""
        tags = (self.reasoning.open, self.reasoning.close) if self.reasoning else ()
        markers = (*tags, *(self.syntax.markers if self.syntax else ()))
        return any(marker in self.special_tokens for marker in markers)

    def prepared(self, call: ChatCall) -> ChatCall:
        """Return the call as the template can show it."""
        messages: Sequence[dict[str, Any]] = call.messages
        if not self.shows_calls:
            messages = as_text(messages)
        elif isinstance(self.syntax, Harmony):
            messages = with_one_call_each(messages)
        elif self.name in _SHORT_IDS:
            messages = with_short_ids(messages)
        elif self.arguments_as_text:
            messages = with_arguments_as_text(messages)
        if self.syntax is None or self.shows_tools or not call.shown_tools:
            return replace(call, messages=list(messages))
        told = told_in_messages(messages, call.shown_tools, self.syntax)
        return replace(call, messages=told, tools=[])

    def parser(self, tools: Sequence[dict[str, Any]], *, in_reasoning: bool) -> AnswerParser:
        """Return a parser of one answer."""
        kind = HarmonyParser if isinstance(self.syntax, Harmony) else AnswerParser
        dropped = tuple(self.special_tokens) if self.keeps_special_tokens else ()
        return kind(self.syntax, self.reasoning, tools, dropped=dropped, in_reasoning=in_reasoning)

    def constraint(self, call: ChatCall, *, in_reasoning: bool) -> StructuredOutputs | None:
        """Return what keeps the model to the call's tools and format."""
        return Grammar(self, in_reasoning).constraint(call)

    def starts_in_reasoning(self, prompt: str) -> bool:
        """Whether the prompt's end has begun the model's reasoning."""
        return self.reasoning is not None and prompt.rstrip().endswith(self.reasoning.open)
