"""One JSON value, checked character by character as RFC 8259 writes it."""

from __future__ import annotations

MAX_DEPTH = 128

_SPACE = " \t\r\n"
_DIGITS = "0123456789"
_WORDS = {"t": "true", "f": "false", "n": "null"}
_ESCAPES = '"\\/bfnrt'
_HEX = "0123456789abcdefABCDEF"

# Where in a number: what may follow, and whether it may end there.
_NUMBER: dict[str, dict[str, str]] = {
    "-": {"0": "0", "1-9": "int"},
    "0": {".": ".", "e": "e"},
    "int": {"0-9": "int", ".": ".", "e": "e"},
    ".": {"0-9": "frac"},
    "frac": {"0-9": "frac", "e": "e"},
    "e": {"+-": "sign", "0-9": "exp"},
    "sign": {"0-9": "exp"},
    "exp": {"0-9": "exp"},
}
_ENDS = frozenset({"0", "int", "frac", "exp"})


def _kind(character: str) -> tuple[str, ...]:
    if character == "0":
        return ("0", "0-9")
    if character in _DIGITS:
        return ("1-9", "0-9")
    if character in "eE":
        return ("e",)
    return ("+-",) if character in "+-" else (character,)


class JsonValue:
    """A pushdown automaton; `complete` when the value has ended.

    Leading white space is part of the value; a number at the top ends with the character behind it.
    """

    def __init__(self) -> None:
        self.complete = False
        self._stack: list[str] = []
        self._state = "value"
        self._escape = ""
        self._rest = ""

    def read(self, text: str, at: int) -> int:
        """Read from `text[at:]` as far as it goes on with the value; returns where it stopped."""
        end = len(text)
        while at < end and not self.complete:
            if self._state in ("string", "key") and not self._escape:
                at = self._plain(text, at)
                if at == end:
                    break
            moved = self._step(text[at])
            if moved is None:
                break
            at += moved
        return at

    def close(self) -> bool:
        """The text ends here: whether the value is whole."""
        if self._state == "number" and self._rest in _ENDS and not self._stack:
            self.complete = True
        return self.complete

    def _plain(self, text: str, at: int) -> int:
        """Skip what is ordinary in a string."""
        while at < len(text) and text[at] not in '"\\' and text[at] >= " ":
            at += 1
        return at

    def _step(self, c: str) -> int | None:
        """How far `c` leads: 1, or 0 when it belongs to what follows; None: it cannot stand."""
        state = self._state
        if state == "number":
            return self._number(c)
        if state == "word":
            if c != self._rest[0]:
                return None
            self._rest = self._rest[1:]
            return 1 if self._rest else self._ended()
        if state in ("string", "key"):
            return self._in_escape(c) if self._escape else self._in_string(c)
        if c in _SPACE:
            return 1
        return self._structure(c)

    def _structure(self, c: str) -> int | None:
        state = self._state
        if state in ("value", "first item"):
            if c == "]" and state == "first item":
                return self._close_bracket("[")
            return self._begin(c)
        if state in ("first name", "next name"):
            if c == "}" and state == "first name":
                return self._close_bracket("{")
            return self._go("key") if c == '"' else None
        if state == "colon":
            return self._go("value") if c == ":" else None
        if c == ",":
            return self._go("next name" if self._stack[-1] == "{" else "value")
        return self._close_bracket("{" if c == "}" else "[") if c in "}]" else None

    def _begin(self, c: str) -> int | None:
        if c in "{[":
            if len(self._stack) == MAX_DEPTH:
                return None
            self._stack.append(c)
            return self._go("first name" if c == "{" else "first item")
        if c == '"':
            return self._go("string")
        if c in _WORDS:
            self._rest = _WORDS[c][1:]
            return self._go("word")
        if c == "-" or c in _DIGITS:
            self._rest = c if c in "-0" else "int"
            return self._go("number")
        return None

    def _number(self, c: str) -> int | None:
        for kind in _kind(c):
            following = _NUMBER[self._rest].get(kind)
            if following is not None:
                self._rest = following
                return 1
        if self._rest not in _ENDS:
            return None
        self._ended()
        return 0

    def _in_string(self, c: str) -> int | None:
        if c == "\\":
            self._escape = "begun"
            return 1
        if c < " ":
            return None
        return self._go("colon") if self._state == "key" else self._ended()

    def _in_escape(self, c: str) -> int | None:
        """Behind a backslash; `_escape` then counts the hexadecimal digits to come."""
        if self._escape == "begun":
            self._escape = "4" if c == "u" else ""
            return 1 if c == "u" or c in _ESCAPES else None
        left = int(self._escape) - 1
        self._escape = str(left) if left else ""
        return 1 if c in _HEX else None

    def _close_bracket(self, opening: str) -> int | None:
        if not self._stack or self._stack[-1] != opening:
            return None
        self._stack.pop()
        return self._ended()

    def _ended(self) -> int:
        if not self._stack:
            self.complete = True
        self._state = "after"
        return 1

    def _go(self, state: str) -> int:
        self._state = state
        return 1
