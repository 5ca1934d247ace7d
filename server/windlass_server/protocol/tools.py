"""Tools that a model may call: OpenAI's chat shape of them, and what all surfaces check."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
from pydantic import Field

from windlass_server.chat.call import ToolChoice
from windlass_server.errors import ApiError, invalid_request, missing, unsupported
from windlass_server.protocol.fields import Body
from windlass_server.settings import ServerSettings

NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}

ToolName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.:-]+$")]


class FunctionDefinition(Body):
    """A function: `parameters` is a JSON schema; arguments follow it whatever `strict` says."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChatTool(Body):
    """A tool of a chat completion."""

    type: str
    function: FunctionDefinition | None = None


def function_tool(
    name: str, description: str | None, parameters: dict[str, Any] | None
) -> dict[str, Any]:
    """Return a tool as templates see it."""
    function: dict[str, Any] = {"name": name}
    if description is not None:
        function["description"] = description
    function["parameters"] = NO_PARAMETERS if parameters is None else parameters
    return {"type": "function", "function": function}


def chat_tools(tools: Sequence[ChatTool], settings: ServerSettings) -> list[dict[str, Any]]:
    """Return the tools of a chat completion as templates see them.

    Raises:
        ApiError: 400, a tool is of another kind, or there are too many.
    """
    if not tools:
        raise invalid_request("'tools' must not be empty.", "tools", "invalid_value")
    result = []
    for index, tool in enumerate(tools):
        param = f"tools[{index}]"
        require_function(tool.type, param)
        if tool.function is None:
            raise missing(f"{param}.function")
        function = tool.function
        result.append(function_tool(function.name, function.description, function.parameters))
    check_tools(result, settings)
    return result


def require_function(kind: str, param: str) -> None:
    """Raise a 400 unless the tool is a function: nothing here runs tools."""
    if kind != "function":
        shown = kind[:40]
        raise unsupported(
            f"{param}.type", f"'{param}' is of type {shown}: only function tools are supported."
        )


def check_tools(tools: list[dict[str, Any]], settings: ServerSettings) -> None:
    """Raise a 400 for too many tools, too much text in them, or a name that comes twice."""
    if len(tools) > settings.max_tools:
        text = f"'tools' must have at most {settings.max_tools} entries."
        raise invalid_request(text, "tools", "invalid_value")
    size = len(msgspec.json.encode(tools))
    if size > settings.max_tool_bytes:
        text = f"'tools' has {size} bytes of JSON; at most {settings.max_tool_bytes} are accepted."
        raise invalid_request(text, "tools", "invalid_value")
    seen: set[str] = set()
    for index, name in enumerate(tool_names(tools)):
        if name in seen:
            text = f"'tools[{index}]' has the name of an earlier tool."
            raise invalid_request(text, f"tools[{index}]", "invalid_value")
        seen.add(name)


def tool_names(tools: Iterable[dict[str, Any]]) -> list[str]:
    """Return the names of tools in template shape."""
    return [tool["function"]["name"] for tool in tools]


def chat_tool_choice(choice: object, tools: list[dict[str, Any]]) -> ToolChoice:
    """Read `tool_choice` of a chat completion.

    Raises:
        ApiError: 400, it is malformed, or names a tool that is not there.
    """
    if isinstance(choice, dict) and choice.get("type") == "function":
        return named_tool(_inner(choice, "function", "name"), tools, "tool_choice.function.name")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools")
        if not isinstance(allowed, dict):
            raise _malformed("tool_choice.allowed_tools", "an object")
        listed = allowed.get("tools")
        known = listed if isinstance(listed, list) else []
        names = [_inner(tool, "function", "name") for tool in known]
        return allowed_tools(allowed.get("mode"), names, tools, "tool_choice.allowed_tools")
    return plain_tool_choice(choice, tools)


def plain_tool_choice(choice: object, tools: list[dict[str, Any]]) -> ToolChoice:
    """Read a `tool_choice` that is a word, or nothing."""
    match choice:
        case None:
            return ToolChoice("auto" if tools else "none")
        case "none":
            return ToolChoice("none")
        case "auto" | "required":
            if not tools:
                text = f"'tool_choice' is {choice}, but there are no tools."
                raise invalid_request(text, "tool_choice", "invalid_value")
            return ToolChoice("auto" if choice == "auto" else "required")
        case {"type": str(kind)} if kind not in ("function", "allowed_tools"):
            text = f"'tool_choice' is of type {kind[:40]}: only functions can be chosen."
            raise unsupported("tool_choice.type", text)
        case _:
            words = "none, auto, required or an object that names a function"
            raise _malformed("tool_choice", words)


def named_tool(name: object, tools: list[dict[str, Any]], param: str) -> ToolChoice:
    """Return the choice of the one tool `name`."""
    _require_known([name], tools, param)
    return ToolChoice("required", (str(name),), named=True)


def allowed_tools(
    mode: object, names: Sequence[object], tools: list[dict[str, Any]], param: str
) -> ToolChoice:
    """Return the choice among some of the tools."""
    if mode not in ("auto", "required"):
        raise _malformed(f"{param}.mode", "auto or required")
    if not names:
        raise _malformed(f"{param}.tools", "a list of at least one function")
    _require_known(names, tools, f"{param}.tools")
    chosen = tuple(str(name) for name in names)
    return ToolChoice("auto" if mode == "auto" else "required", chosen)


def _require_known(names: Sequence[object], tools: list[dict[str, Any]], param: str) -> None:
    known = set(tool_names(tools))
    if any(not isinstance(name, str) or name not in known for name in names):
        text = f"'{param}' names a function that is not among 'tools'."
        raise invalid_request(text, param, "invalid_value")


def _inner(value: object, *path: str) -> object:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _malformed(param: str, expected: str) -> ApiError:
    return invalid_request(f"'{param}' must be {expected}.", param, "invalid_value")
