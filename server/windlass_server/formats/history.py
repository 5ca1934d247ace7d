"""What some templates need of a conversation beyond OpenAI's shape of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

Messages = Sequence[dict[str, Any]]

_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
# Arguments that a template adds to text, and arguments that it filters or asks for their type.
_ADDED = re.compile(r"arguments['\"]?\]?\s*\+")
_CONVERTED = re.compile(r"arguments['\"]?\]?\s*(\||is\b|\.items)")


def takes_arguments_as_text(template: str) -> bool:
    """Whether the template adds a call's arguments to text as they are: DeepSeek's do."""
    return bool(_ADDED.search(template)) and not _CONVERTED.search(template)


def with_arguments_as_text(messages: Messages) -> list[dict[str, Any]]:
    """Write the arguments of calls as JSON text."""

    def written(call: dict[str, Any]) -> dict[str, Any]:
        arguments = call["function"].get("arguments")
        text = arguments if isinstance(arguments, str) else _json(arguments)
        return {**call, "function": {**call["function"], "arguments": text}}

    return [
        _with_calls(message, map(written, message.get("tool_calls") or ())) for message in messages
    ]


def with_short_ids(messages: Messages) -> list[dict[str, Any]]:
    """Give calls ids of nine letters and digits, which Mistral's templates insist on."""
    return [_with_short_ids(message) for message in messages]


def _with_short_ids(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {**message, "tool_call_id": _short(message.get("tool_call_id") or "")}
    calls = message.get("tool_calls") or ()
    named = ({**call, "id": _short(call.get("id") or call["function"]["name"])} for call in calls)
    return _with_calls(message, named)


def with_one_call_each(messages: Messages) -> list[dict[str, Any]]:
    """Let no message have two calls, each with its result behind it: harmony's template shows one.

    Reasoning stands under "thinking", which that template reads where there is no content.
    """
    changed: list[dict[str, Any]] = []
    at = 0
    while at < len(messages):
        message = _thinking(messages[at])
        at += 1
        calls = message.get("tool_calls") or ()
        if len(calls) < 2:
            changed.append(message)
            continue
        results = []
        while at < len(messages) and messages[at]["role"] == "tool":
            results.append(messages[at])
            at += 1
        changed += _taken_apart(message, calls, results)
    return changed


def _taken_apart(
    message: dict[str, Any], calls: Sequence[dict[str, Any]], results: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    left = list(results)
    for index, call in enumerate(calls):
        shared = message if not index else {"role": message["role"], "content": None}
        parts.append({**shared, "tool_calls": [call]})
        found = [result for result in left if result.get("tool_call_id") == call.get("id")]
        parts += found
        left = [result for result in left if result not in found]
    return [*parts, *left]


def _thinking(message: dict[str, Any]) -> dict[str, Any]:
    reasoning = message.get("reasoning_content")
    if not reasoning or (message.get("tool_calls") and message.get("content")):
        return message
    return {"thinking": reasoning, **message}


def _with_calls(message: dict[str, Any], calls: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {**message, "tool_calls": list(calls)} if message.get("tool_calls") else message


def _short(call_id: str) -> str:
    """`call_id` where it will do, else one that is always the same for it."""
    if _SHORT_ID.fullmatch(call_id):
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]


def _json(value: object) -> str:
    return json.dumps({} if value is None else value, ensure_ascii=False)
