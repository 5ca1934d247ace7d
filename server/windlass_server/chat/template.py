"""What chat templates expect, whatever surface it comes from."""

from __future__ import annotations

from typing import Any

import msgspec

NO_THINKING: dict[str, Any] = {"enable_thinking": False, "thinking": False}
THINKING: dict[str, Any] = {"enable_thinking": True, "thinking": True}
"""The variables by which models are told whether to think: Qwen's and DeepSeek's."""


def template_tool_call(call_id: str | None, name: str, arguments: str) -> dict[str, Any]:
    """Return a call with its arguments as an object, which is what templates expect."""
    call: dict[str, Any] = {} if call_id is None else {"id": call_id}
    call["type"] = "function"
    call["function"] = {"name": name, "arguments": _parsed(arguments)}
    return call


def _parsed(arguments: str) -> object:
    """Return the JSON value of `arguments`; text that is none stays as it is."""
    try:
        return msgspec.json.decode(arguments) if arguments.strip() else {}
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return arguments


def template_variables(given: dict[str, Any] | None, effort: str | None) -> dict[str, Any]:
    """Return the template's variables; what the client itself set stays."""
    variables = dict(given or {})
    if effort is None:
        return variables
    wanted: dict[str, Any] = {"reasoning_effort": effort}
    if effort == "none":
        wanted |= NO_THINKING
    return {**wanted, **variables}
