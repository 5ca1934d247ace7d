"""From the body of a response to a `ChatCall` and to the response as it begins."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from windlass.request import SamplingParams
from windlass_server.chat.answer import new_id
from windlass_server.chat.call import ChatCall, ToolChoice
from windlass_server.chat.template import template_variables
from windlass_server.engine import Engine
from windlass_server.errors import invalid_request, missing, unsupported
from windlass_server.protocol.response_objects import ReasoningEcho, Response
from windlass_server.protocol.responses import (
    ResponseInputFields,
    ResponsesRequest,
    ResponsesTool,
)
from windlass_server.protocol.structured_output import read_format
from windlass_server.protocol.tools import (
    allowed_tools,
    check_tools,
    function_tool,
    named_tool,
    plain_tool_choice,
    require_function,
)
from windlass_server.responses.items import template_messages
from windlass_server.settings import ServerSettings

LOGPROBS = "message.output_text.logprobs"
SEALED_REASONING = "reasoning.encrypted_content"


def response_call(
    body: ResponsesRequest,
    items: Sequence[dict[str, Any]],
    engine: Engine,
    settings: ServerSettings,
) -> ChatCall:
    """Return what `body` asks for; `items` are those of the whole conversation, oldest first.

    Raises:
        ApiError: 400 naming the field at fault.
    """
    if body.n not in (None, 1):
        raise unsupported("n", "'n' is not supported here other than 1.")
    if body.max_tokens is not None:
        raise unsupported("max_tokens", "'max_tokens' is called 'max_output_tokens' here.")
    for field in ("prompt_logprobs", "return_token_ids", "return_tokens_as_token_ids"):
        if getattr(body, field):
            raise unsupported(field)
    call = prompt_call(body, items, _sampling(body, engine), settings)
    call.constraint_param = body.constraint_param or "text.format"
    call.thinking_budget = body.thinking_token_budget
    call.requires_budget = body.thinking_token_budget is not None
    call.priority = body.priority or 0
    call.cache_salt = body.cache_salt or ""
    call.count_max = body.max_output_tokens is not None
    return call


def prompt_call(
    body: ResponseInputFields,
    items: Sequence[dict[str, Any]],
    sampling: SamplingParams,
    settings: ServerSettings,
) -> ChatCall:
    """Return the call as far as its prompt is concerned."""
    if not items:
        raise missing("input")
    if len(items) > settings.max_messages:
        text = f"The conversation must have at most {settings.max_messages} items."
        raise invalid_request(text, "input", "invalid_value")
    if body.text and body.text.verbosity not in (None, "medium"):
        raise unsupported("text.verbosity", "'text.verbosity' is not supported other than medium.")
    if body.reasoning and body.reasoning.context not in (None, "auto"):
        text = "'reasoning.context' is not supported other than auto."
        raise unsupported("reasoning.context", text)
    tools = _tools(body.tools or [], settings)
    messages = template_messages(items)
    if body.instructions is not None:
        messages.insert(0, {"role": "system", "content": body.instructions})
    effort = body.reasoning.effort if body.reasoning else None
    return ChatCall(
        messages=messages,
        sampling=sampling,
        tools=tools,
        tool_choice=_tool_choice(body.tool_choice, tools),
        parallel_tool_calls=body.parallel_tool_calls is not False,
        template_kwargs=template_variables(body.chat_template_kwargs, effort),
    )


def _sampling(body: ResponsesRequest, engine: Engine) -> SamplingParams:
    wants = LOGPROBS in (body.include or ()) or bool(body.top_logprobs)
    sampling = body.sampling_params(
        engine.default_sampling,
        max_tokens=body.max_output_tokens,
        logprobs=(body.top_logprobs or 0) if wants else None,
    )
    text_format = read_format(body.text.format, "text.format") if body.text else None
    if text_format is None:
        return sampling
    if body.constraint_param is not None:
        message = f"'{body.constraint_param}' cannot be combined with 'text.format'."
        raise invalid_request(message, body.constraint_param, "invalid_value")
    return replace(sampling, structured_outputs=text_format)


def _tools(tools: Sequence[ResponsesTool], settings: ServerSettings) -> list[dict[str, Any]]:
    result = []
    for index, tool in enumerate(tools):
        require_function(tool.type, f"tools[{index}]")
        if tool.name is None:
            raise missing(f"tools[{index}].name")
        result.append(function_tool(tool.name, tool.description, tool.parameters))
    check_tools(result, settings)
    return result


def _tool_choice(choice: object, tools: list[dict[str, Any]]) -> ToolChoice:
    match choice:
        case {"type": "function", **rest}:
            return named_tool(rest.get("name"), tools, "tool_choice.name")
        case {"type": "allowed_tools", **rest}:
            listed = rest.get("tools")
            known = listed if isinstance(listed, list) else []
            names = [tool.get("name") if isinstance(tool, dict) else None for tool in known]
            return allowed_tools(rest.get("mode"), names, tools, "tool_choice")
        case _:
            return plain_tool_choice(choice, tools)


def begun_response(body: ResponsesRequest, sampling: SamplingParams, *, stored: bool) -> Response:
    """Return the response before anything is generated."""
    text: dict[str, Any] = {"format": (body.text and body.text.format) or {"type": "text"}}
    if body.text and body.text.verbosity:
        text["verbosity"] = body.text.verbosity
    reasoning = body.reasoning
    return Response(
        id=new_id("resp_"),
        created_at=int(time.time()),
        model=body.model,
        background=bool(body.background),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        metadata=body.metadata or {},
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        reasoning=ReasoningEcho(reasoning.effort, reasoning.summary)
        if reasoning
        else ReasoningEcho(),
        store=stored,
        temperature=sampling.temperature,
        text=text,
        tool_choice=body.tool_choice or "auto",
        tools=[_echoed(tool) for tool in body.tools or ()],
        top_logprobs=body.top_logprobs or 0,
        truncation=body.truncation or "disabled",
        top_p=sampling.top_p,
        prompt_cache_key=body.prompt_cache_key or UNSET,
        safety_identifier=body.safety_identifier or UNSET,
        user=body.user or UNSET,
    )


def _echoed(tool: ResponsesTool) -> dict[str, Any]:
    echoed: dict[str, Any] = {"type": "function", "name": tool.name}
    if tool.description is not None:
        echoed["description"] = tool.description
    return {**echoed, "parameters": tool.parameters, "strict": tool.strict is not False}
