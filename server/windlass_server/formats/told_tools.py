"""Tools for a model whose chat template knows none: told in words, in the syntax of Hermes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

_INTRODUCTION = (
    "You can call functions. Their signatures, a JSON object a line, are in <tools></tools>:\n"
    "<tools>\n{tools}\n</tools>\n\n"
    "To call one, write its name and arguments as a JSON object in <tool_call></tool_call>:\n"
    '<tool_call>\n{{"name": "NAME", "arguments": {{}}}}\n</tool_call>'
)


def told_in_messages(
    messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return messages of the roles system, user and assistant that say the same as text."""
    told = [_as_text(message) for message in messages]
    if not tools:
        return told
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    introduction = _INTRODUCTION.format(tools=listed)
    if told and told[0]["role"] == "system":
        first = {**told[0], "content": f"{_text(told[0].get('content'))}\n\n{introduction}"}
        return [first, *told[1:]]
    return [{"role": "system", "content": introduction}, *told]


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
