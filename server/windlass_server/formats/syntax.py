"""What a syntax of tool calls is: how calls are read, and how a grammar writes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from windlass_server.formats.reader import MismatchError, Reading

if TYPE_CHECKING:
    from windlass_server.formats.parser import AnswerParser

MAX_NAME = 256
"""Characters of a function's name, as a model writes it."""


@dataclass(frozen=True)
class Arguments:
    """Where in a call its arguments stand, as JSON of this schema."""

    schema: dict[str, Any]


@dataclass(frozen=True)
class Text:
    """Free text without `end`, of `least` to `most` characters, and then `before` and `end`."""

    end: str
    least: int = 0
    most: int | None = None
    before: str = ""


@dataclass(frozen=True)
class Choice:
    """One of some texts."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Optional:
    """Parts that may be left out, together."""

    parts: tuple[Part, ...] = field(default_factory=tuple)


Part = str | Arguments | Text | Choice | Optional
"""A piece of what a model writes for a call; a string stands for itself."""


class ToolSyntax(ABC):
    """One way to write tool calls.

    A call of an answer begins with `markers`; `inner` are further tokens of calls. With `at_start`
    calls may begin an answer without a marker. A grammar writes `before`, calls with `between` them
    and `after`; each call is `call`.
    """

    name: ClassVar[str]
    markers: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    at_start: bool = False
    before: str = ""
    between: str = ""
    after: str = ""

    @abstractmethod
    def read(self, parser: AnswerParser, marker: str) -> Reading[None]:
        """Read the calls behind `marker`, and tell them to `parser`.

        Raises:
            MismatchError: it is no call; what was read without one is text.
        """

    @abstractmethod
    def call(self, name: str, schema: dict[str, Any]) -> list[Part]:
        """Write a call of the function `name` with arguments of `schema`."""


def read_name(parser: AnswerParser, ends: str) -> Reading[str]:
    """Read a function's name up to one of `ends`.

    Raises:
        MismatchError: there is none.
    """
    name = yield from parser.reader.while_in(lambda c: c not in ends, MAX_NAME)
    if not name.strip():
        raise MismatchError
    return name.strip()
