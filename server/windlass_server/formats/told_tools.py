"""Tools for a model whose chat template shows none: told in words, in the format's own syntax."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from windlass_server.formats.syntax import Arguments, Choice, Part, Text, ToolSyntax

_INTRODUCTION = (
    "You can call functions. Their signatures, a JSON object a line, are in <tools></tools>:\n"
    "<tools>\n{tools}\n</tools>\n\n"
    "To call one, write its NAME, the KEY and the VALUE of its arguments in this way:\n{example}"
)
_EXAMPLE = {"type": "object", "properties": {"KEY": {}}, "required": ["KEY"]}


def as_text(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages of the roles system, user and assistant: calls, as Hermes', are text."""
    return [_as_text(message) for message in messages]


def told_in_messages(
    messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], syntax: ToolSyntax
) -> list[dict[str, Any]]:
    """Return the messages with a system message that tells of `tools` and how they are called."""
    told = list(messages)
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    introduction = _INTRODUCTION.format(tools=listed, example=_example(syntax))
    if told and told[0]["role"] == "system":
        first = {**told[0], "content": f"{_text(told[0].get('content'))}\n\n{introduction}"}
        return [first, *told[1:]]
    return [{"role": "system", "content": introduction}, *told]


def _example(syntax: ToolSyntax) -> str:
    call = "".join(map(_shown, syntax.call("NAME", _EXAMPLE)))
    return f"{syntax.before}{call}{syntax.after}"


def _shown(part: Part) -> str:
    match part:
        case str():
            return part
        case Arguments(schema):
            return '{"KEY": VALUE}' if "properties" in schema else "VALUE"
        case Text(end, before=before):
            return f"VALUE{before}{end}"
        case Choice(texts):
            return texts[0]
        case _:
            return ""


def _as_text(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] in ("tool", "function"):
        content = f"<tool_response>\n{_text(message.get('content'))}\n</tool_response>"
        return {"role": "user", "content": content}
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = [
        f"<tool_call>\n{json.dumps(_written(call['function']), ensure_ascii=False)}\n</tool_call>"
        for call in calls
    ]
    plain = {key: value for key, value in message.items() if key != "tool_calls"}
    content = "\n".join(filter(None, [_text(message.get("content")), *written]))
    return {**plain, "content": content}


def _written(function: dict[str, Any]) -> dict[str, Any]:
    return {"name": function.get("name"), "arguments": function.get("arguments")}


def _text(content: object) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content)
    return str(content or "")
