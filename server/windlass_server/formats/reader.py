"""Text that comes in pieces, read by generators that ask for more with `yield`.

A generator that reads an answer is written as if the whole text were there; where the text ends for
now it yields, and is resumed when more has come or none will. What it says cannot depend on where
the text was cut. Every character is looked at a bounded number of times.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import TypeVar

from windlass_server.formats.json_text import JsonValue

Result = TypeVar("Result")
Reading = Generator[None, None, Result]
Sink = Callable[[str], None]

WHITE_SPACE = " \t\r\n"


def encodable(text: str) -> str:
    """Return `text`, which escapes wrote, as UTF-8 can have it: no half of a pair stands alone."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class MismatchError(Exception):
    """The text is not what it seemed to become."""


class Reader:
    """The part of the text that was not yet read; `ended` when none will follow.

    While `record` is a list, everything that is read is put there too.
    """

    def __init__(self) -> None:
        self._text, self._at = "", 0
        self.ended = False
        self.record: list[str] | None = None

    def add(self, text: str) -> None:
        """Append what has come."""
        self._text, self._at = self._text[self._at :] + text, 0

    def _take(self, end: int) -> str:
        taken = self._text[self._at : end]
        self._at = end
        if self.record is not None and taken:
            self.record.append(taken)
        return taken

    def peek(self) -> Reading[str]:
        """The next character, "" at the end."""
        while self._at == len(self._text) and not self.ended:
            yield
        return self._text[self._at : self._at + 1]

    def skip_space(self) -> Reading[None]:
        """Read white space."""
        while (yield from self.peek()) and self._text[self._at] in WHITE_SPACE:
            end = self._at
            while end < len(self._text) and self._text[end] in WHITE_SPACE:
                end += 1
            self._take(end)

    def starts_with(self, literal: str) -> Reading[bool]:
        """Whether `literal` comes next; it is read when it does."""
        while True:
            available = self._text[self._at : self._at + len(literal)]
            if available == literal:
                self._take(self._at + len(literal))
                return True
            if self.ended or not literal.startswith(available):
                return False
            yield

    def closing(self, literal: str) -> Reading[None]:
        """Read `literal` if it comes next, or the start of it with which the text was cut off."""
        if (yield from self.starts_with(literal)):
            return
        rest = self._text[self._at :]
        if self.ended and literal.startswith(rest):
            self._take(len(self._text))

    def expect(self, literal: str) -> Reading[None]:
        """Read `literal`.

        Raises:
            MismatchError: something else comes.
        """
        if not (yield from self.starts_with(literal)):
            raise MismatchError

    def until(self, markers: tuple[str, ...], out: Sink) -> Reading[str | None]:
        """Give text to `out` up to the first of `markers`, which is read and returned.

        None when the text ends before one comes. No marker may be the start of another.
        """
        while True:
            found = _first(self._text, markers, self._at)
            if found is not None:
                begin, marker = found
                out(self._text[self._at : begin])
                self._take(begin + len(marker))
                return marker
            kept = 0 if self.ended else _held_back(self._text, markers, self._at)
            text = self._take(len(self._text) - kept)
            if text:
                out(text)
            if self.ended:
                return None
            yield

    def while_in(self, allowed: Callable[[str], bool], most: int) -> Reading[str]:
        """Read characters that are allowed, `most` at most.

        Raises:
            MismatchError: there are more.
        """
        parts: list[str] = []
        length = 0
        while (yield from self.peek()) and allowed(self._text[self._at]):
            end = self._at
            while end < len(self._text) and allowed(self._text[end]):
                end += 1
            length += end - self._at
            if length > most:
                raise MismatchError
            parts.append(self._take(end))
        return "".join(parts)

    def json(self, out: Sink) -> Reading[bool]:
        """Give the JSON value that comes next to `out`; whether it came to its end.

        Raises:
            MismatchError: a character comes that no JSON value has there; it is not read.
        """
        value = JsonValue()
        while True:
            end = value.read(self._text, self._at)
            if end > self._at:
                out(self._take(end))
            if value.complete:
                return True
            if end < len(self._text):
                raise MismatchError
            if self.ended:
                return value.close()
            yield


def _first(text: str, markers: tuple[str, ...], at: int) -> tuple[int, str] | None:
    found = _any_of(markers).search(text, at) if markers else None
    return (found.start(), found.group()) if found else None


@lru_cache(maxsize=256)
def _any_of(markers: tuple[str, ...]) -> re.Pattern[str]:
    """One search for all: looking for each would read far ahead again and again."""
    return re.compile("|".join(map(re.escape, markers)))


def _held_back(text: str, markers: tuple[str, ...], at: int) -> int:
    """How many characters at the end may be the start of a marker."""
    starts, firsts, longest = _starts(markers)
    if not any(first in text for first in firsts):
        return 0
    for length in range(min(longest, len(text) - at), 0, -1):
        if text[-length:] in starts:
            return length
    return 0


@lru_cache(maxsize=256)
def _starts(markers: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str], int]:
    """What markers may begin with, their first characters, and the length of the longest of it."""
    starts = frozenset(m[:length] for m in markers for length in range(1, len(m)))
    return starts, frozenset(m[0] for m in markers), max(map(len, starts), default=0)
