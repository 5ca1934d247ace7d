"""Regular expressions as JSON Schema has them (ECMA-262), for a matcher without their freedoms.

A pattern is parsed and written again in a form that means the same everywhere: groups, classes as
explicit ranges of code points, counted repetitions. What a finite automaton cannot decide (look
around, back references, word boundaries) is refused by name.
"""

from __future__ import annotations

import sys
import unicodedata
from functools import lru_cache

Range = tuple[int, int]

MAX_DEPTH = 64
"""Groups inside groups."""

_TOP = sys.maxunicode
_SURROGATES = (0xD800, 0xDFFF)
_DIGITS: list[Range] = [(0x30, 0x39)]
_WORD: list[Range] = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_SPACE: list[Range] = [
    (0x09, 0x0D),
    (0x20, 0x20),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
    (0xFEFF, 0xFEFF),
]
_LINE_ENDS: list[Range] = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D}
_ANYTHING = "(?s:.*)"


class PatternError(ValueError):
    """A pattern is broken, or holds what cannot be matched; the text says what."""


def search_pattern(pattern: str) -> str:
    """Return a regex that matches the whole of every text in which `pattern` is found.

    Raises:
        PatternError: see the class.
    """
    return _Parser(pattern).parse(search=True)


def whole_pattern(pattern: str) -> str:
    """Return a regex that matches what `pattern` matches as a whole, anchors being optional.

    Raises:
        PatternError: see the class.
    """
    return _Parser(pattern).parse(search=False)


def literal(text: str) -> str:
    """Return a regex that matches exactly this text."""
    return "".join(f"\\x{{{ord(char):X}}}" for char in text)


class _Parser:
    """Recursive descent over the pattern; every method reads on from `at`."""

    def __init__(self, pattern: str) -> None:
        self.text = pattern
        self.at = 0
        self.depth = 0

    def parse(self, *, search: bool) -> str:
        alternatives = [self._anchored(search)]
        while self._take("|"):
            alternatives.append(self._anchored(search))
        if self.at < len(self.text):
            raise PatternError("a closing parenthesis has no opening one")
        return f"(?:{'|'.join(alternatives)})"

    def _anchored(self, search: bool) -> str:
        """One alternative at the top, the only place where anchors may stand."""
        starts = self._take("^")
        body = self._sequence()
        ends = self._take("$")
        if self._peek() not in ("", "|", ")"):
            raise PatternError("an anchor stands in the middle")
        before = "" if starts or not search else _ANYTHING
        after = "" if ends or not search else _ANYTHING
        return before + body + after

    def _sequence(self) -> str:
        parts: list[str] = []
        while (char := self._peek()) not in ("", "|", ")", "$"):
            if char == "^":
                raise PatternError("an anchor stands in the middle or in a group")
            atom = self._atom(char)
            parts.append(atom + self._quantifier())
        return "".join(parts)

    def _atom(self, char: str) -> str:
        self.at += 1
        if char == "(":
            return self._group()
        if char == "[":
            return self._class()
        if char == ".":
            return write_class(_complement(_LINE_ENDS))
        if char == "\\":
            return self._escape()
        if char in "*+?":
            raise PatternError(f"nothing stands before {char!r}")
        return literal(char)

    def _group(self) -> str:
        if self._take("?"):
            self._group_kind()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise PatternError(f"groups are nested more than {MAX_DEPTH} deep")
        alternatives = [self._sequence()]
        while self._take("|"):
            alternatives.append(self._sequence())
        if not self._take(")"):
            anchor = self._peek() == "$"
            raise PatternError("an anchor stands in a group" if anchor else "a group has no end")
        self.depth -= 1
        return f"(?:{'|'.join(alternatives)})"

    def _group_kind(self) -> None:
        if self._take(":"):
            return
        if any(self.text.startswith(kind, self.at) for kind in ("=", "!", "<=", "<!")):
            raise PatternError("lookaround is not supported")
        self._take("P")
        if not self._take("<"):
            raise PatternError("flags inside a pattern are not supported")
        end = self.text.find(">", self.at)
        if end < 0 or not self.text[self.at : end].isidentifier():
            raise PatternError("a group's name is broken")
        self.at = end + 1

    def _quantifier(self) -> str:
        char = self._peek()
        if char and char in "*+?":
            self.at += 1
            found = char
        else:
            found = self._counts()
        if found:
            self._take("?")  # lazy: which texts match is the same
            following = self._peek()
            if (following and following in "*+?") or (following == "{" and self._counts()):
                raise PatternError("a repetition is repeated")
        return found

    def _counts(self) -> str:
        """`{n}`, `{n,}` or `{n,m}`; else nothing is read."""
        if self._peek() != "{":
            return ""
        end = self.text.find("}", self.at)
        low, comma, high = self.text[self.at + 1 : max(end, 0)].partition(",")
        if not _is_count(low) or not (high == "" or _is_count(high)):
            return ""
        if high and int(high) < int(low):
            raise PatternError("a repetition's counts are out of order")
        self.at = end + 1
        return f"{{{int(low)}{comma}{int(high) if high else ''}}}"

    def _escape(self) -> str:
        char = self._peek()
        if char in ("b", "B"):
            raise PatternError("word boundaries are not supported")
        if char == "k" or (char.isascii() and char.isdigit() and char != "0"):
            raise PatternError("back references are not supported")
        return write_class(self._escaped_set())

    def _class(self) -> str:
        negated = self._take("^")
        ranges: list[Range] = []
        while not self._take("]"):
            first = self._class_atom()
            following = self.text[self.at + 1 : self.at + 2]
            if self._peek() == "-" and following not in ("]", ""):
                self.at += 1
                ranges.append(_span(first, self._class_atom()))
            else:
                ranges += first
        return write_class(_complement(ranges) if negated else ranges)

    def _class_atom(self) -> list[Range]:
        char = self._peek()
        if not char:
            raise PatternError("a character class has no end")
        self.at += 1
        if char != "\\":
            return [(ord(char), ord(char))]
        if self._take("b"):
            return [(0x08, 0x08)]
        return self._escaped_set()

    def _escaped_set(self) -> list[Range]:
        """What an escape stands for; the backslash is read already."""
        char = self._peek()
        self.at += 1
        if char and char in "dwsDWS":
            named = {"d": _DIGITS, "w": _WORD, "s": _SPACE}[char.lower()]
            return named if char.islower() else _complement(named)
        if char in ("p", "P"):
            ranges = self._property()
            return ranges if char == "p" else _complement(ranges)
        code = self._code_point(char)
        return [(code, code)]

    def _code_point(self, char: str) -> int:
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char == "0" and not self._peek().isdigit():
            return 0
        if char == "c" and self._peek().isascii() and self._peek().isalpha():
            self.at += 1
            return ord(self.text[self.at - 1]) % 32
        if char == "x":
            return self._hex(2)
        if char == "u":
            return self._unicode()
        if not char or char == "_" or (char.isascii() and char.isalnum()):
            raise PatternError(f"the escape \\{char} is not known")
        return ord(char)

    def _unicode(self) -> int:
        if self._take("{"):
            end = self.text.find("}", self.at)
            return self._hex(end - self.at, closing=1)
        code = self._hex(4)
        if 0xD800 <= code <= 0xDBFF and self.text.startswith("\\u", self.at):
            self.at += 2
            low = self._hex(4)
            if not 0xDC00 <= low <= 0xDFFF:
                raise PatternError("half of a surrogate pair is missing")
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        return code

    def _hex(self, length: int, closing: int = 0) -> int:
        digits = self.text[self.at : self.at + max(length, 0)]
        if not 1 <= length <= 6 or len(digits) < length or not _is_hex(digits):
            raise PatternError("a hexadecimal escape is broken")
        self.at += length + closing
        code = int(digits, 16)
        if code > _TOP:
            raise PatternError("an escape is beyond Unicode")
        return code

    def _property(self) -> list[Range]:
        end = self.text.find("}", self.at)
        name = self.text[self.at : end] if self._take("{") and end > 0 else ""
        ranges = _category(name) if len(name) in (1, 2) else []
        if not ranges:
            raise PatternError(
                "of the properties \\p{...} only general categories such as L or Nd are supported"
            )
        self.at = end + 1
        return ranges

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _take(self, char: str) -> bool:
        if self._peek() != char:
            return False
        self.at += 1
        return True


def write_class(ranges: list[Range]) -> str:
    """Write a set of code points as a class of explicit ranges.

    U+0000 is left out: no text needs it, and llguidance 1.9 takes a class that holds all control
    characters to allow an escaped quote too.

    Raises:
        PatternError: nothing is left in the set.
    """
    parts = []
    for low, high in _normalised(ranges):
        for start, end in _without((max(low, 1), high), _SURROGATES):
            parts.append(f"\\x{{{start:X}}}-\\x{{{end:X}}}" if end > start else f"\\x{{{start:X}}}")
    if not parts:
        raise PatternError("a character class allows no character")
    return f"[{''.join(parts)}]"


def _without(span: Range, hole: Range) -> list[Range]:
    (low, high), (first, last) = span, hole
    pieces = [(low, min(high, first - 1)), (max(low, last + 1), high)]
    return [piece for piece in pieces if piece[0] <= piece[1]]


def _normalised(ranges: list[Range]) -> list[Range]:
    merged: list[Range] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return merged


def _complement(ranges: list[Range]) -> list[Range]:
    found, start = [], 0
    for low, high in _normalised(ranges):
        if low > start:
            found.append((start, low - 1))
        start = high + 1
    if start <= _TOP:
        found.append((start, _TOP))
    return found


def _span(first: list[Range], last: list[Range]) -> Range:
    if len(first) != 1 or len(last) != 1 or first[0][0] != first[0][1] or last[0][0] != last[0][1]:
        raise PatternError("a range in a character class has no single ends")
    if first[0][0] > last[0][0]:
        raise PatternError("a range in a character class is out of order")
    return first[0][0], last[0][0]


@lru_cache(maxsize=64)
def _category(name: str) -> list[Range]:
    """Code points of a general category of Unicode, as Python's tables have it."""
    codes = [code for code in range(_TOP + 1) if unicodedata.category(chr(code)).startswith(name)]
    return _normalised([(code, code) for code in codes])


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9


def _is_hex(text: str) -> bool:
    return all(char in "0123456789abcdefABCDEF" for char in text)
