"""A literal as Python or JSON writes it, read character by character and never evaluated."""

from __future__ import annotations

import math
from typing import Any

from windlass_server.formats.reader import MismatchError, Reader, Reading, encodable

MAX_DEPTH = 64
_MAX_NUMBER = 400
"""Characters of a number: the longest float has 309 digits before its point."""
_MAX_TEXT = 10_000_000
_WORDS = {
    "True": True,
    "False": False,
    "None": None,
    "true": True,
    "false": False,
    "null": None,
}
_ESCAPES = {
    **{c: c for c in "\\'\"/"},
    **{"\n": "", "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"},
}
_CODES = {"x": 2, "u": 4, "U": 8}
_NUMBER = frozenset("0123456789+-.eE")


def read_literal(reader: Reader, depth: int = 0) -> Reading[Any]:
    """Read text, a number, a constant, a list, a tuple or a dictionary with text as keys.

    Raises:
        MismatchError: something else comes, or brackets are nested too deep.
    """
    yield from reader.skip_space()
    c = yield from reader.peek()
    if not c or depth > MAX_DEPTH:
        raise MismatchError
    if c in "\"'":
        return (yield from _read_text(reader))
    if c in "[(":
        return (yield from _read_items(reader, "]" if c == "[" else ")", depth))
    if c == "{":
        return (yield from _read_members(reader, depth))
    if c in _NUMBER:
        return _number((yield from reader.while_in(_NUMBER.__contains__, _MAX_NUMBER)))
    word = yield from reader.while_in(str.isalpha, max(map(len, _WORDS)))
    if word not in _WORDS:
        raise MismatchError
    return _WORDS[word]


def _read_items(reader: Reader, closing: str, depth: int) -> Reading[list[Any]]:
    items: list[Any] = []
    yield from reader.expect((yield from reader.peek()))
    yield from reader.skip_space()
    while not (yield from reader.starts_with(closing)):
        items.append((yield from read_literal(reader, depth + 1)))
        yield from reader.skip_space()
        if not (yield from reader.starts_with(",")):
            yield from reader.expect(closing)
            break
        yield from reader.skip_space()
    return items


def _read_members(reader: Reader, depth: int) -> Reading[dict[str, Any]]:
    members: dict[str, Any] = {}
    yield from reader.expect("{")
    yield from reader.skip_space()
    while not (yield from reader.starts_with("}")):
        if (yield from reader.peek()) not in ("'", '"'):
            raise MismatchError
        key = yield from _read_text(reader)
        yield from reader.skip_space()
        yield from reader.expect(":")
        members[key] = yield from read_literal(reader, depth + 1)
        yield from reader.skip_space()
        if not (yield from reader.starts_with(",")):
            yield from reader.expect("}")
            break
        yield from reader.skip_space()
    return members


def _read_text(reader: Reader) -> Reading[str]:
    quote = yield from reader.peek()
    yield from reader.expect(quote)
    parts: list[str] = []
    ends = frozenset((quote, "\\"))
    while True:
        parts.append((yield from reader.while_in(lambda c: c not in ends, _MAX_TEXT)))
        if (yield from reader.starts_with(quote)):
            return encodable("".join(parts))
        yield from reader.expect("\\")
        parts.append((yield from _read_escape(reader)))


def _read_escape(reader: Reader) -> Reading[str]:
    """What stands behind a backslash; one that escapes nothing stands for itself."""
    c = yield from reader.peek()
    yield from reader.expect(c)
    if c not in _CODES:
        return _ESCAPES.get(c, "\\" + c)
    digits = ""
    while len(digits) < _CODES[c] and (digit := (yield from reader.peek())) in _HEX and digit:
        yield from reader.expect(digit)
        digits += digit
    code = int(digits, 16) if len(digits) == _CODES[c] else -1
    return chr(code) if 0 <= code <= _LAST_CODE else f"\\{c}{digits}"


_HEX = "0123456789abcdefABCDEF"
_LAST_CODE = 0x10FFFF


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        raise MismatchError from None
    if not math.isfinite(value):
        raise MismatchError
    return value
