"""Answers of every format, and a way to read them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from windlass_server.formats.chat_format import ModelFormat
from windlass_server.formats.detect import REASONING, SYNTAXES
from windlass_server.formats.events import (
    ContentText,
    Event,
    ReasoningText,
    ToolCallArguments,
    ToolCallStart,
)

HAUL: dict[str, Any] = {
    "type": "object",
    "properties": {
        "rope": {"type": "string", "maxLength": 12},
        "metres": {"type": "integer"},
        "knots": {"type": "array", "items": {"enum": ["bowline", "hitch"]}, "maxItems": 2},
    },
    "required": ["rope", "metres"],
    "additionalProperties": False,
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "haul", "parameters": HAUL}},
    {
        "type": "function",
        "function": {"name": "rest", "parameters": {"type": "object", "properties": {}}},
    },
]


class Said(msgspec.Struct):
    """What an answer says, however it came."""

    reasoning: str = ""
    content: str = ""
    calls: list[tuple[str, str]] = []
    ids: list[str | None] = []

    @property
    def arguments(self) -> list[Any]:
        return [json.loads(arguments) for _, arguments in self.calls]


def joined(events: Iterable[Event]) -> Said:
    said = Said()
    for event in events:
        match event:
            case ReasoningText(text):
                said.reasoning += text
            case ContentText(text):
                said.content += text
            case ToolCallStart(index, name, call_id):
                assert index == len(said.calls)
                said.calls.append((name, ""))
                said.ids.append(call_id)
            case ToolCallArguments(index, text):
                assert index == len(said.calls) - 1
                said.calls[index] = (said.calls[index][0], said.calls[index][1] + text)
    return said


class Read:
    """Reads answers of one format."""

    def __init__(self, syntax: str, reasoning: str | None = "think") -> None:
        tags = REASONING[reasoning] if reasoning else None
        self.format = ModelFormat(SYNTAXES[syntax](), tags)

    def __call__(self, *pieces: str, in_reasoning: bool = False) -> Said:
        parser = self.format.parser(TOOLS, in_reasoning=in_reasoning)
        events: list[Event] = []
        for piece in pieces:
            events += parser.feed(piece)
        return joined([*events, *parser.finish()])


ARGUMENTS = '{"rope": "a \\"b\\" }{", "metres": 3}'
HAULED = {"rope": 'a "b" }{', "metres": 3}

ANSWERS: dict[str, str] = {
    "hermes": f'<tool_call>\n{{"name": "haul", "arguments": {ARGUMENTS}}}\n</tool_call>\n'
    '<tool_call>\n{"arguments": {}, "name": "rest"}\n</tool_call>',
    "qwen3_coder": '<tool_call>\n<function=haul>\n<parameter=rope>\na "b" }{\n</parameter>\n'
    "<parameter=metres>\n3\n</parameter>\n</function>\n</tool_call>\n"
    "<tool_call>\n<function=rest>\n</function>\n</tool_call>",
    "llama3_json": f'{{"name": "haul", "parameters": {ARGUMENTS}}}; '
    '{"name": "rest", "parameters": {}}',
    "mistral": f"[TOOL_CALLS]haul[ARGS]{ARGUMENTS}[TOOL_CALLS]rest[ARGS]{{}}",
    "mistral_array": f'[TOOL_CALLS] [{{"name": "haul", "arguments": {ARGUMENTS}}}, '
    '{"name": "rest", "arguments": {}}]',
    "deepseek_v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>haul\n"
    f"```json\n{ARGUMENTS}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>rest\n"
    "```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseek_v31": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>haul<｜tool▁sep｜>"
    f"{ARGUMENTS}<｜tool▁call▁end｜><｜tool▁call▁begin｜>rest<｜tool▁sep｜>{{}}<｜tool▁call▁end｜>"
    "<｜tool▁calls▁end｜>",
    "harmony": "<|channel|>commentary to=functions.haul <|constrain|>json<|message|>"
    f"{ARGUMENTS}<|call|><|start|>assistant<|channel|>commentary to=functions.rest "
    "<|constrain|>json<|message|>{}<|call|>",
    "glm": '<tool_call>haul\n<arg_key>rope</arg_key>\n<arg_value>a "b" }{</arg_value>\n'
    "<arg_key>metres</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n<tool_call>rest\n</tool_call>",
    "kimi": "<|tool_calls_section_begin|><|tool_call_begin|>functions.haul:0"
    f"<|tool_call_argument_begin|>{ARGUMENTS}<|tool_call_end|><|tool_call_begin|>functions.rest:1"
    "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
    "granite": f'<|tool_call|>[{{"name": "haul", "arguments": {ARGUMENTS}}}, '
    '{"name": "rest", "arguments": {}}]',
    "pythonic": "[haul(rope='a \"b\" }{', metres=3), rest()]",
}
"""Two calls in each syntax."""
