"""Calls with arguments one by one between tags; the tool's schema gives their types."""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from windlass_server.formats.reader import MismatchError, Reading
from windlass_server.formats.syntax import (
    Arguments,
    Choice,
    Optional,
    Part,
    Text,
    ToolSyntax,
    read_name,
)

if TYPE_CHECKING:
    from windlass_server.formats.parser import AnswerParser

_SHARED = ("$defs", "definitions")


class TaggedCalls(ToolSyntax):
    """What the syntaxes with tags share: arguments are told one by one, as JSON of their types."""

    markers = ("<tool_call>",)
    between = "\n"
    value_end: ClassVar[str]
    value_before: ClassVar[str] = ""
    """What ends a value, and what stands before that and is none of the value's."""

    def read(self, parser: AnswerParser, marker: str) -> Reading[None]:
        """One call."""
        name = yield from self.read_head(parser)
        parser.begin_call(name)
        properties = parser.tools.get(name, {}).get("parameters", {}).get("properties", {})
        first = True
        while (key := (yield from self._next_key(parser))) is not None:
            parts: list[str] = []
            ended = yield from parser.reader.until((self.value_end,), parts.append)
            value = as_json("".join(parts).removesuffix(self.value_before), properties.get(key))
            separator = "{" if first else ", "
            parser.arguments(f"{separator}{json.dumps(key, ensure_ascii=False)}: {value}")
            first = False
            if ended is None:
                return
        parser.arguments("{}" if first else "}")
        yield from self.read_tail(parser)

    def _next_key(self, parser: AnswerParser) -> Reading[str | None]:
        """`read_key`; a tag that is none ends the call, and is text unless it was only cut."""
        reader = parser.reader
        reader.record = []
        try:
            return (yield from self.read_key(parser))
        except MismatchError:
            if (yield from reader.peek()):
                parser.content("".join(reader.record))
            return None
        finally:
            reader.record = None

    def call(self, name: str, schema: dict[str, Any]) -> list[Part]:
        """A call with its arguments in the order of the schema; optional ones may be left out."""
        required = schema.get("required", ())
        shared = {key: schema[key] for key in _SHARED if key in schema}
        parts: list[Part] = [self.write_head(name)]
        for key, value in schema.get("properties", {}).items():
            argument = (self.write_key(key), *self._value(value, shared))
            parts += argument if key in required else [Optional(argument)]
        return [*parts, self.write_tail()]

    def _value(self, schema: object, shared: dict[str, Any]) -> list[Part]:
        if not is_text(schema):
            inner = {**schema, **shared} if isinstance(schema, dict) else {}
            return [Arguments(inner), f"{self.value_before}{self.value_end}\n"]
        assert isinstance(schema, dict)
        choices = [schema["const"]] if "const" in schema else schema.get("enum")
        if choices:
            return [Choice(tuple(choices)), f"{self.value_before}{self.value_end}\n"]
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        return [Text(self.value_end, least, most, self.value_before), "\n"]

    @abstractmethod
    def read_head(self, parser: AnswerParser) -> Reading[str]:
        """Read up to the function's name."""

    @abstractmethod
    def read_key(self, parser: AnswerParser) -> Reading[str | None]:
        """Read the key of the next argument, up to its value; None when there is no other.

        Raises:
            MismatchError: what seemed to be a tag is none.
        """

    @abstractmethod
    def read_tail(self, parser: AnswerParser) -> Reading[None]:
        """Read what ends the call."""

    @abstractmethod
    def write_head(self, name: str) -> str:
        """What stands before the arguments."""

    @abstractmethod
    def write_key(self, key: str) -> str:
        """What stands before a value."""

    @abstractmethod
    def write_tail(self) -> str:
        """What stands behind the arguments."""


class QwenCoder(TaggedCalls):
    """`<tool_call><function=name><parameter=key>value</parameter></function></tool_call>`."""

    name: ClassVar[str] = "qwen3_coder"
    value_end, value_before = "</parameter>", "\n"

    def read_head(self, parser: AnswerParser) -> Reading[str]:
        """`<function=name>`."""
        yield from parser.reader.skip_space()
        yield from parser.reader.expect("<function=")
        name = yield from read_name(parser, ">\n")
        yield from parser.reader.expect(">")
        return name

    def read_key(self, parser: AnswerParser) -> Reading[str | None]:
        """`<parameter=key>` and a line feed."""
        yield from parser.reader.skip_space()
        if not (yield from parser.reader.starts_with("<parameter=")):
            return None
        key = yield from read_name(parser, ">\n")
        yield from parser.reader.expect(">")
        yield from parser.reader.starts_with("\n")
        return key

    def read_tail(self, parser: AnswerParser) -> Reading[None]:
        """The closing tags, as far as they are there."""
        yield from parser.reader.closing("</function>")
        yield from parser.reader.skip_space()
        yield from parser.reader.closing("</tool_call>")

    def write_head(self, name: str) -> str:
        """The opening tags."""
        return f"<tool_call>\n<function={name}>\n"

    def write_key(self, key: str) -> str:
        """The opening tag of an argument."""
        return f"<parameter={key}>\n"

    def write_tail(self) -> str:
        """The closing tags."""
        return "</function>\n</tool_call>"


class Glm(TaggedCalls):
    """`<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>`: GLM 4.5."""

    name: ClassVar[str] = "glm"
    value_end = "</arg_value>"

    def read_head(self, parser: AnswerParser) -> Reading[str]:
        """The name, up to the next line or tag."""
        name = yield from read_name(parser, "<{\n")
        if not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
            raise MismatchError
        return name

    def read_key(self, parser: AnswerParser) -> Reading[str | None]:
        """`<arg_key>key</arg_key>` and `<arg_value>`."""
        yield from parser.reader.skip_space()
        if not (yield from parser.reader.starts_with("<arg_key>")):
            return None
        key = yield from read_name(parser, "<")
        yield from parser.reader.expect("</arg_key>")
        yield from parser.reader.skip_space()
        yield from parser.reader.expect("<arg_value>")
        return key

    def read_tail(self, parser: AnswerParser) -> Reading[None]:
        """The closing tag."""
        yield from parser.reader.closing("</tool_call>")

    def write_head(self, name: str) -> str:
        """The opening tag and the name."""
        return f"<tool_call>{name}\n"

    def write_key(self, key: str) -> str:
        """The key, and the opening tag of its value."""
        return f"<arg_key>{key}</arg_key>\n<arg_value>"

    def write_tail(self) -> str:
        """The closing tag."""
        return "</tool_call>"


def is_text(schema: object) -> bool:
    """Whether values of the schema are text, which is then written without quotes."""
    if not isinstance(schema, dict):
        return False
    if "type" in schema:
        return bool(schema["type"] == "string")
    choices = schema.get("enum", [schema["const"]] if "const" in schema else ())
    return bool(choices) and all(isinstance(choice, str) for choice in choices)


def as_json(text: str, schema: object) -> str:
    """A value between tags as JSON: text where the schema says so, or where it is no JSON."""
    if not is_text(schema):
        try:
            json.loads(text, parse_constant=_no_constant)
            return text.strip()
        except (ValueError, RecursionError):
            pass
    return json.dumps(text, ensure_ascii=False)


def _no_constant(name: str) -> float:
    raise ValueError(name)
