"""Calls whose arguments are written as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from windlass_server.formats.reader import MismatchError, Reading, encodable
from windlass_server.formats.syntax import Arguments, Choice, Part, ToolSyntax, read_name

if TYPE_CHECKING:
    from windlass_server.formats.parser import AnswerParser

_ARGUMENT_KEYS = ("arguments", "parameters")
_OTHER_KEYS = ("id", "type")
_NUMBERS = 100
"""Calls of a conversation that a grammar of Kimi's lets be counted."""


def read_json_call(parser: AnswerParser, *, known: bool = False) -> Reading[None]:
    """Read an object with the keys "name" and "arguments" (or "parameters").

    With `known` it is a call only if the function is among the tools.

    Raises:
        MismatchError: it is no such object.
    """
    reader = parser.reader
    yield from reader.skip_space()
    yield from reader.expect("{")
    call = _Call(known)
    while True:
        yield from reader.skip_space()
        key = yield from _read_text(parser)
        yield from reader.skip_space()
        yield from reader.expect(":")
        yield from reader.skip_space()
        yield from call.read_member(parser, key)
        yield from reader.skip_space()
        if not (yield from reader.starts_with(",")):
            break
    yield from reader.expect("}")
    call.end(parser)


@dataclass(slots=True)
class _Call:
    """What is known of a call: `waiting` are arguments that came before the name."""

    known: bool
    name: str = ""
    id: str | None = None
    waiting: str = "{}"
    begun: bool = False

    def read_member(self, parser: AnswerParser, key: str) -> Reading[None]:
        """Read the value of `key`."""
        if key == "name" and not self.name:
            self.name = yield from _read_text(parser)
            if not self.name or (self.known and self.name not in parser.tools):
                raise MismatchError
        elif key in _ARGUMENT_KEYS and self.name and not self.begun:
            self.begun = True
            parser.begin_call(self.name, self.id)
            yield from _stream_arguments(parser)
        else:
            value = yield from _read_value(parser)
            if key in _ARGUMENT_KEYS and not self.begun:
                self.waiting = value
            elif key == "id" and value.startswith('"'):
                self.id = encodable(json.loads(value))
            elif key not in _OTHER_KEYS and not self.begun:
                raise MismatchError

    def end(self, parser: AnswerParser) -> None:
        """Tell a call that had no arguments, or had them before its name."""
        if not self.name:
            raise MismatchError
        if not self.begun:
            parser.begin_call(self.name, self.id)
            parser.arguments(_as_object(self.waiting))


def _read_value(parser: AnswerParser) -> Reading[str]:
    parts: list[str] = []
    if not (yield from parser.reader.json(parts.append)):
        raise MismatchError
    return "".join(parts).strip()


def _read_text(parser: AnswerParser) -> Reading[str]:
    if (yield from parser.reader.peek()) != '"':
        raise MismatchError
    value = yield from _read_value(parser)
    return encodable(json.loads(value))


def _stream_arguments(parser: AnswerParser) -> Reading[None]:
    """Arguments as they come; a text that holds JSON, or null, is read to its end first."""
    if (yield from parser.reader.peek()) == "{":
        yield from parser.reader.json(parser.arguments)
        return
    parts: list[str] = []
    try:
        yield from parser.reader.json(parts.append)
    finally:
        parser.arguments(_as_object("".join(parts)))


def _as_object(value: str) -> str:
    """`value`, or the JSON text that it holds as a string; "{}" for null."""
    try:
        decoded = json.loads(value)
        if isinstance(decoded, str) and isinstance(json.loads(decoded), dict):
            return encodable(decoded)
    except (ValueError, RecursionError):
        return value
    return "{}" if decoded is None else value


def json_call(name: str, schema: dict[str, Any], key: str = "arguments") -> list[Part]:
    """The object that `read_json_call` reads."""
    return [f'{{"name": {json.dumps(name)}, "{key}": ', Arguments(schema), "}"]


class Hermes(ToolSyntax):
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen and many more."""

    name: ClassVar[str] = "hermes"
    markers = ("<tool_call>",)
    between = "\n"

    def read(self, parser: AnswerParser, marker: str) -> Reading[None]:
        """One call."""
        yield from read_json_call(parser)
        yield from parser.reader.skip_space()
        yield from parser.reader.closing("</tool_call>")

    def call(self, name: str, schema: dict[str, Any]) -> list[Part]:
        """One call."""
        return ["<tool_call>\n", *json_call(name, schema), "\n</tool_call>"]


class BareJson(ToolSyntax):
    """`{"name": ..., "parameters": {...}}` as the whole answer, several behind `;`: Llama 3."""

    name: ClassVar[str] = "llama3_json"
    markers = ("<|python_tag|>",)
    at_start = True
    between = "; "

    def read(self, parser: AnswerParser, marker: str) -> Reading[None]:
        """Calls up to the first thing that is none."""
        reader = parser.reader
        yield from read_json_call(parser, known=not marker)
        while True:
            reader.record = []
            yield from reader.skip_space()
            for separator in (";", ","):
                yield from reader.starts_with(separator)
            yield from reader.skip_space()
            if (yield from reader.peek()) != "{":
                raise MismatchError
            yield from read_json_call(parser, known=True)

    def call(self, name: str, schema: dict[str, Any]) -> list[Part]:
        """One call."""
        return json_call(name, schema, "parameters")


class JsonArray(ToolSyntax):
    """A marker and an array of calls: Mistral before 2025, Granite 3."""

    def __init__(self, name: str, marker: str) -> None:
        self.name = name  # type: ignore[misc]
        self.markers = (marker,)
        self.before, self.between, self.after = f"{marker}[", ", ", "]"

    def read(self, parser: AnswerParser, marker: str) -> Reading[None]:
        """The array, or one object without."""
        reader = parser.reader
        yield from reader.skip_space()
        if not (yield from reader.starts_with("[")):
            yield from read_json_call(parser)
            return
        while True:
            yield from read_json_call(parser)
            yield from reader.skip_space()
            if not (yield from reader.starts_with(",")):
                yield from reader.closing("]")
                return

    def call(self, name: str, schema: dict[str, Any]) -> list[Part]:
        """One entry of the array."""
        return json_call(name, schema)


class MarkedName(ToolSyntax):
    """`[TOOL_CALLS]name[ARGS]{...}`: Mistral from 2025 on."""

    name: ClassVar[str] = "mistral"
    markers = ("[TOOL_CALLS]",)
    inner = ("[ARGS]", "[CALL_ID]")

    def read(self, parser: AnswerParser, marker: str) -> Reading[None]:
        """One call, or the array of older models."""
        reader = parser.reader
        yield from reader.skip_space()
        if (yield from reader.peek()) in ("[", "{"):
            yield from MISTRAL_ARRAY.read(parser, marker)
            return
        name = yield from read_name(parser, "[{\n")
        call_id = None
        if (yield from reader.starts_with("[CALL_ID]")):
            call_id = yield from read_name(parser, "[{\n")
        yield from reader.starts_with("[ARGS]")
        yield from reader.skip_space()
        if (yield from reader.peek()) != "{":
            raise MismatchError
        parser.begin_call(name, call_id)
        yield from reader.json(parser.arguments)

    def call(self, name: str, schema: dict[str, Any]) -> list[Part]:
        """One call."""
        return ["[TOOL_CALLS]", f"{name}", "[ARGS]", Arguments(schema)]


MISTRAL_ARRAY = JsonArray("mistral_array", "[TOOL_CALLS]")
GRANITE = JsonArray("granite", "<|tool_call|>")


class DeepSeek(ToolSyntax):
    """DeepSeek V3.1, and with `fenced` V3 and R1, which write a type and a block of code."""

    before = "<｜tool▁calls▁begin｜>"
    after = "<｜tool▁calls▁end｜>"
    markers = (before, "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", after)
    inner = ("<｜tool▁sep｜>",)

    def __init__(self, *, fenced: bool) -> None:
        self.name = "deepseek_v3" if fenced else "deepseek_v31"  # type: ignore[misc]
        self._fenced = fenced
        self.between = "\n" if fenced else ""

    def read(self, parser: AnswerParser, marker: str) -> Reading[None]:
        """One call; the other markers stand around calls and say nothing."""
        reader = parser.reader
        if marker != self.markers[1]:
            return
        parts: list[str] = []
        if (yield from reader.until(("<｜tool▁sep｜>",), parts.append)) is None:
            raise MismatchError
        name = "".join(parts).strip()
        if name == "function":
            name = yield from read_name(parser, "\n{")
            yield from reader.skip_space()
            yield from reader.starts_with("```json")
            yield from reader.skip_space()
        if (yield from reader.peek()) != "{" or not name:
            raise MismatchError
        parser.begin_call(name)
        yield from reader.json(parser.arguments)
        yield from reader.skip_space()
        yield from reader.closing("```")

    def call(self, name: str, schema: dict[str, Any]) -> list[Part]:
        """One call."""
        begin, end = self.markers[1:3]
        if not self._fenced:
            return [begin, name, "<｜tool▁sep｜>", Arguments(schema), end]
        head = [begin, "function", "<｜tool▁sep｜>", f"{name}\n```json\n"]
        return [*head, Arguments(schema), "\n```", end]


class Kimi(ToolSyntax):
    """`<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{...}`: Kimi K2."""

    name: ClassVar[str] = "kimi"
    before = "<|tool_calls_section_begin|>"
    after = "<|tool_calls_section_end|>"
    markers = (before, "<|tool_call_begin|>", "<|tool_call_end|>", after)
    inner = ("<|tool_call_argument_begin|>",)

    def read(self, parser: AnswerParser, marker: str) -> Reading[None]:
        """One call; its id is the whole of "functions.name:0"."""
        reader = parser.reader
        if marker != self.markers[1]:
            return
        parts: list[str] = []
        if (yield from reader.until(("<|tool_call_argument_begin|>",), parts.append)) is None:
            raise MismatchError
        call_id = "".join(parts).strip()
        name = call_id.removeprefix("functions.").split(":")[0]
        yield from reader.skip_space()
        if (yield from reader.peek()) != "{" or not name:
            raise MismatchError
        parser.begin_call(name, call_id)
        yield from reader.json(parser.arguments)

    def call(self, name: str, schema: dict[str, Any]) -> list[Part]:
        """One call; the number counts calls of the conversation, which a grammar cannot."""
        begin, end = self.markers[1:3]
        numbers = Choice(tuple(map(str, range(_NUMBERS))))
        arguments = "<|tool_call_argument_begin|>"
        return [begin, f"functions.{name}:", numbers, arguments, Arguments(schema), end]
