"""Calls as a list of Python calls with literal arguments: OLMo 3, and templates that ask for it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from windlass_server.formats.python_literal import read_literal
from windlass_server.formats.reader import MismatchError, Reader, Reading
from windlass_server.formats.syntax import MAX_NAME, Arguments, Optional, Part, ToolSyntax

if TYPE_CHECKING:
    from windlass_server.formats.parser import AnswerParser


class Pythonic(ToolSyntax):
    """`[name(key=value, ...), ...]` as the answer; literals are Python's or JSON's.

    The list is read to its end before a call is told: only then is it known to be one. It is
    parsed, never evaluated.
    """

    name: ClassVar[str] = "pythonic"
    markers = ("<|python_start|>",)
    inner = ("<|python_end|>",)
    at_start = True
    before, between, after = "[", ", ", "]"

    def read(self, parser: AnswerParser, marker: str) -> Reading[None]:
        """The list."""
        yield from parser.reader.skip_space()
        for name, arguments in (yield from _read_calls(parser)):
            parser.begin_call(name)
            parser.arguments(json.dumps(arguments, ensure_ascii=False))
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


def _read_calls(parser: AnswerParser) -> Reading[list[tuple[str, dict[str, Any]]]]:
    """The list, as (name, arguments)."""
    reader = parser.reader
    calls = []
    yield from reader.expect("[")
    while True:
        yield from reader.skip_space()
        name = yield from reader.while_in(_in_name, MAX_NAME)
        if name not in parser.tools:
            raise MismatchError
        calls.append((name, (yield from _read_arguments(reader))))
        yield from reader.skip_space()
        if not (yield from reader.starts_with(",")):
            yield from reader.expect("]")
            return calls


def _read_arguments(reader: Reader) -> Reading[dict[str, Any]]:
    arguments: dict[str, Any] = {}
    yield from reader.expect("(")
    yield from reader.skip_space()
    while not (yield from reader.starts_with(")")):
        key = yield from reader.while_in(_in_name, MAX_NAME)
        yield from reader.skip_space()
        yield from reader.expect("=")
        if not key or key in arguments:
            raise MismatchError
        arguments[key] = yield from read_literal(reader)
        yield from reader.skip_space()
        if not (yield from reader.starts_with(",")):
            yield from reader.expect(")")
            break
        yield from reader.skip_space()
    return arguments


def _in_name(character: str) -> bool:
    return character.isalnum() or character in "_.-:"
