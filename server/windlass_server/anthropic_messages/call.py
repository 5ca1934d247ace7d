"""From the body of an Anthropic message to a `ChatCall`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from windlass.errors import RequestError
from windlass.request import SamplingParams
from windlass_server.chat.call import ChatCall, ToolChoice
from windlass_server.chat.template import NO_THINKING, THINKING
from windlass_server.engine import Engine
from windlass_server.errors import ApiError, invalid_request, missing, unsupported
from windlass_server.protocol.messages import (
    Block,
    Content,
    CountTokensRequest,
    MessageParam,
    MessagesRequest,
    ThinkingParam,
    ToolChoiceParam,
    ToolParam,
)
from windlass_server.protocol.structured_output import read_format
from windlass_server.protocol.tools import check_tools, function_tool, named_tool
from windlass_server.settings import ServerSettings

_OWN_TOOL_TYPES = (None, "custom")
_NAMES = {"stop": "stop_sequences"}


def message_call(body: MessagesRequest, engine: Engine, settings: ServerSettings) -> ChatCall:
    """Return what `body` asks for.

    Raises:
        ApiError: 400 naming the field at fault.
    """
    call = prompt_call(body, _sampling(body, engine), settings)
    call.priority = body.priority or 0
    call.count_max = True
    call.constraint_param = "output_config.format"
    if body.thinking is not None and body.thinking.type == "enabled":
        call.thinking_budget = body.thinking.budget_tokens
    return call


def prompt_call(
    body: CountTokensRequest, sampling: SamplingParams, settings: ServerSettings
) -> ChatCall:
    """Return the call as far as its prompt is concerned."""
    if len(body.messages) > settings.max_messages:
        text = f"'messages' must have at most {settings.max_messages} entries."
        raise invalid_request(text, "messages", "invalid_value")
    messages = _system(body.system)
    for index, message in enumerate(body.messages):
        messages += _template_messages(message, f"messages[{index}]")
    _name_tool_results(messages)
    tools = _tools(body.tools or [], settings)
    choice = body.tool_choice
    output = body.output_config
    # A conversation that ends with the assistant's words is gone on with.
    prefilled = messages[-1]["role"] == "assistant" and bool(messages[-1]["content"])
    return ChatCall(
        messages=messages,
        sampling=sampling,
        tools=tools,
        tool_choice=_tool_choice(choice, tools),
        parallel_tool_calls=not (choice and choice.disable_parallel_tool_use),
        template_kwargs=_variables(body.thinking, output.effort if output else None),
        add_generation_prompt=not prefilled,
        continue_final_message=prefilled,
    )


def _sampling(body: MessagesRequest, engine: Engine) -> SamplingParams:
    chosen: dict[str, Any] = {
        "temperature": body.temperature,
        "top_k": body.top_k,
        "top_p": body.top_p,
        "stop": body.stop_sequences,
    }
    output = body.output_config
    if output is not None:
        chosen["structured_outputs"] = read_format(output.format, "output_config.format")
    given = {name: value for name, value in chosen.items() if value is not None}
    try:
        return SamplingParams(**{**engine.default_sampling, **given, "max_tokens": body.max_tokens})
    except RequestError as exc:
        param = _NAMES.get(exc.param or "", exc.param)
        raise invalid_request(exc.message, param, exc.code) from None


def _variables(thinking: ThinkingParam | None, effort: str | None) -> dict[str, Any]:
    """Return what tells the template whether to think: not at all unless the client wants it."""
    variables: dict[str, Any] = {}
    if thinking is None or thinking.type == "disabled":
        variables |= NO_THINKING
    elif thinking.type == "enabled":
        if thinking.budget_tokens is None:
            raise missing("thinking.budget_tokens")
        variables |= THINKING
    if effort is not None:
        variables["reasoning_effort"] = effort
    return variables


def _system(system: Content | None) -> list[dict[str, Any]]:
    if not system:
        return []
    return [{"role": "system", "content": _text(system, "system")}]


def _text(content: str | Sequence[Block], param: str) -> str:
    """Return the text of blocks that may only be text, joined by line feeds."""
    if isinstance(content, str):
        return content
    texts = []
    for index, block in enumerate(content):
        path = f"{param}[{index}]"
        if block.type != "text":
            raise _wrong_kind(block, path)
        texts.append(_required(block.text, f"{path}.text"))
    return "\n".join(texts)


def _wrong_kind(block: Block, param: str) -> ApiError:
    kind = block.type[:40]
    return unsupported(param, f"'{param}' is of type {kind}, which is not supported here.")


def _required(value: str | None, param: str) -> str:
    if value is None:
        raise missing(param)
    return value


def _template_messages(message: MessageParam, param: str) -> list[dict[str, Any]]:
    """Return one message, or several: tool results are messages of their own."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    if message.role == "assistant":
        return [_assistant(message.content, f"{param}.content")]
    if message.role == "system":
        return _system(message.content)
    return _user(message.content, f"{param}.content")


def _assistant(blocks: Sequence[Block], param: str) -> dict[str, Any]:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for index, block in enumerate(blocks):
        path = f"{param}[{index}]"
        match block.type:
            case "text":
                texts.append(_required(block.text, f"{path}.text"))
            case "thinking":
                thoughts.append(_required(block.thinking, f"{path}.thinking"))
            case "redacted_thinking":
                # Made by a server that could read it; there is nothing to show to this model.
                _required(block.data, f"{path}.data")
            case "tool_use":
                calls.append(_tool_use(block, path))
            case _:
                raise _wrong_kind(block, path)
    message: dict[str, Any] = {"role": "assistant", "content": "\n".join(texts)}
    if thoughts:
        message["reasoning"] = message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _tool_use(block: Block, param: str) -> dict[str, Any]:
    name = _required(block.name, f"{param}.name")
    call_id = _required(block.id, f"{param}.id")
    function = {"name": name, "arguments": block.input or {}}
    return {"id": call_id, "type": "function", "function": function}


def _user(blocks: Sequence[Block], param: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    texts: list[str] = []
    for index, block in enumerate(blocks):
        path = f"{param}[{index}]"
        if block.type == "text":
            texts.append(_required(block.text, f"{path}.text"))
        elif block.type == "tool_result":
            messages.append(_tool_result(block, path))
        else:
            raise _wrong_kind(block, path)
    if texts or not messages:
        messages.append({"role": "user", "content": "\n".join(texts)})
    return messages


def _tool_result(block: Block, param: str) -> dict[str, Any]:
    call_id = _required(block.tool_use_id, f"{param}.tool_use_id")
    text = _text(block.content or "", f"{param}.content")
    if block.is_error:
        text = f"Error: {text}"
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def _name_tool_results(messages: list[dict[str, Any]]) -> None:
    """Give each result the name of the function that it comes from, which some templates want."""
    names: dict[str, str] = {}
    for message in messages:
        for call in message.get("tool_calls", ()):
            names[call["id"]] = call["function"]["name"]
        if message["role"] == "tool" and message["tool_call_id"] in names:
            message["name"] = names[message["tool_call_id"]]


def _tools(tools: Sequence[ToolParam], settings: ServerSettings) -> list[dict[str, Any]]:
    result = []
    for index, tool in enumerate(tools):
        param = f"tools[{index}]"
        if tool.type not in _OWN_TOOL_TYPES:
            kind = str(tool.type)[:40]
            text = f"'{param}' is of type {kind}: only tools with an input_schema are supported."
            raise unsupported(f"{param}.type", text)
        if tool.input_schema is None:
            raise missing(f"{param}.input_schema")
        result.append(function_tool(tool.name, tool.description, tool.input_schema))
    check_tools(result, settings)
    return result


def _tool_choice(choice: ToolChoiceParam | None, tools: list[dict[str, Any]]) -> ToolChoice:
    if choice is None:
        return ToolChoice("auto" if tools else "none")
    if choice.type == "none":
        return ToolChoice("none")
    if not tools:
        text = f"'tool_choice' is {choice.type}, but there are no tools."
        raise invalid_request(text, "tool_choice", "invalid_value")
    if choice.type == "tool":
        return named_tool(choice.name, tools, "tool_choice.name")
    return ToolChoice("auto" if choice.type == "auto" else "required")
