"""Calls as a list of Python calls with literal arguments: Llama 4, OLMo 3."""

from __future__ import annotations

import ast
import json
from typing import TYPE_CHECKING, Any, ClassVar

from windlass_server.formats.reader import MismatchError, Reading
from windlass_server.formats.syntax import Arguments, Optional, Part, ToolSyntax

if TYPE_CHECKING:
    from windlass_server.formats.parser import AnswerParser

MAX_CHARACTERS = 100_000
_JSON_NAMES: dict[str, Any] = {"true": True, "false": False, "null": None}
_BRACKETS = {"(": ")", "[": "]", "{": "}"}


class Pythonic(ToolSyntax):
    """`[name(key=value, ...), ...]` as the answer; literals are Python's or JSON's.

    The list is read to its end before a call is told: only then is it known to be one. It is
    parsed, never evaluated.
    """

    name: ClassVar[str] = "pythonic"
    markers = ("<|python_start|>",)
    at_start = True
    before, between, after = "[", ", ", "]"

    def read(self, parser: AnswerParser, marker: str) -> Reading[None]:
        """The list."""
        yield from parser.reader.skip_space()
        if (yield from parser.reader.peek()) != "[":
            raise MismatchError
        text = yield from _read_list(parser)
        calls = _calls(text)
        if any(name not in parser.tools for name, _ in calls):
            raise MismatchError
        for name, arguments in calls:
            parser.begin_call(name)
            parser.arguments(arguments)
        yield from parser.reader.starts_with("<|python_end|>")

    def call(self, name: str, schema: dict[str, Any]) -> list[Part]:
        """Arguments by name, their values as JSON; what is required comes first."""
        properties, required = schema.get("properties", {}), schema.get("required", ())
        shared: dict[str, Any] = {
            key: schema[key] for key in ("$defs", "definitions") if key in schema
        }

        def argument(key: str, lead: str) -> tuple[Part, ...]:
            inner = properties[key] if isinstance(properties[key], dict) else {}
            return (f"{lead}{key}=", Arguments({**inner, **shared}))

        always = [key for key in properties if key in required]
        parts: list[Part] = [f"{name}("]
        for index, key in enumerate(always):
            parts += argument(key, ", " if index else "")
        if always:
            parts += [Optional(argument(k, ", ")) for k in properties if k not in required]
        return [*parts, ")"]


def _read_list(parser: AnswerParser) -> Reading[str]:
    """Text up to the bracket that closes the first one; quotes are respected."""
    brackets = _Brackets()
    parts: list[str] = []
    while True:
        c = yield from parser.reader.peek()
        if not c or len(parts) == MAX_CHARACTERS:
            raise MismatchError
        yield from parser.reader.expect(c)
        parts.append(c)
        if brackets.closed_by(c):
            return "".join(parts)


class _Brackets:
    """The brackets that are open in a Python text, read character by character."""

    def __init__(self) -> None:
        self._stack: list[str] = []
        self._quote = ""
        self._escaped = False

    def closed_by(self, c: str) -> bool:
        """Whether `c` closes the last open one."""
        if self._quote:
            if c == self._quote and not self._escaped:
                self._quote = ""
            self._escaped = c == "\\" and not self._escaped
        elif c in "\"'":
            self._quote = c
        elif c in _BRACKETS:
            self._stack.append(_BRACKETS[c])
        elif c in _BRACKETS.values() and (not self._stack or self._stack.pop() != c):
            raise MismatchError
        return not self._stack and not self._quote


def _calls(text: str) -> list[tuple[str, str]]:
    """The calls of the list as (name, arguments as JSON).

    Raises:
        MismatchError: it is no list of calls with literal arguments.
    """
    try:
        tree = ast.parse(text, mode="eval").body
        if not isinstance(tree, ast.List) or not tree.elts:
            raise MismatchError
        return [_call(element) for element in tree.elts]
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise MismatchError from None


def _call(node: ast.expr) -> tuple[str, str]:
    if not isinstance(node, ast.Call) or node.args:
        raise MismatchError
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise MismatchError
        arguments[keyword.arg] = _literal(keyword.value)
    encoded = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    return _name(node.func), encoded


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    raise MismatchError


def _literal(node: ast.expr) -> Any:  # noqa: ANN401 - any JSON value
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.Name(id=name) if name in _JSON_NAMES:
            return _JSON_NAMES[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_literal(element) for element in elements]
        case ast.Dict(keys=keys, values=values):
            if not all(isinstance(k, ast.Constant) and isinstance(k.value, str) for k in keys):
                raise MismatchError
            return {k.value: _literal(v) for k, v in zip(keys, values, strict=True)}  # type: ignore[union-attr]
        case _:
            raise MismatchError
