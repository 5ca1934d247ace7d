"""From the body of a chat completion to a `ChatCall`."""

from __future__ import annotations

from windlass.request import SamplingParams
from windlass_server.chat.call import ChatCall, ToolChoice
from windlass_server.chat.template import template_variables
from windlass_server.chat_completions.messages import check_messages, template_messages
from windlass_server.engine import Engine
from windlass_server.errors import invalid_request, unsupported
from windlass_server.protocol.chat import ChatCompletionRequest
from windlass_server.protocol.tools import chat_tool_choice, chat_tools
from windlass_server.settings import ServerSettings


def chat_call(body: ChatCompletionRequest, engine: Engine, settings: ServerSettings) -> ChatCall:
    """Return what `body` asks for.

    Raises:
        ApiError: 400 naming the field at fault.
    """
    _check(body, settings)
    check_messages(body.messages, settings.max_messages)
    tools = chat_tools(body.tools, settings) if body.tools is not None else []
    continuing = bool(body.continue_final_message)
    adding = body.add_generation_prompt
    return ChatCall(
        messages=template_messages(body.messages),
        sampling=_sampling(body, engine),
        tools=tools,
        tool_choice=chat_tool_choice(body.tool_choice, tools) if tools else _no_tools(body),
        parallel_tool_calls=body.parallel_tool_calls is not False,
        constraint_param=body.constraint_param,
        thinking_budget=body.thinking_token_budget,
        requires_budget=body.thinking_token_budget is not None,
        template_kwargs=template_variables(body.chat_template_kwargs, body.reasoning_effort),
        chat_template=body.chat_template,
        add_generation_prompt=not continuing if adding is None else adding,
        continue_final_message=continuing,
        priority=body.priority or 0,
        cache_salt=body.cache_salt or "",
        count_max=body.max_tokens is not None or body.max_completion_tokens is not None,
    )


def _no_tools(body: ChatCompletionRequest) -> ToolChoice:
    return chat_tool_choice(body.tool_choice, [])


def _check(body: ChatCompletionRequest, settings: ServerSettings) -> None:
    if body.chat_template is not None and not settings.trust_request_chat_template:
        text = "'chat_template' needs --trust-request-chat-template on the server."
        raise unsupported("chat_template", text)
    if body.top_logprobs is not None and not body.logprobs:
        message = "'top_logprobs' needs 'logprobs' to be true."
        raise invalid_request(message, "top_logprobs", "invalid_value")
    if body.return_tokens_as_token_ids and not body.logprobs:
        message = "'return_tokens_as_token_ids' needs 'logprobs' to be true."
        raise invalid_request(message, "return_tokens_as_token_ids", "invalid_value")
    if body.add_generation_prompt and body.continue_final_message:
        message = "'continue_final_message' and 'add_generation_prompt' exclude each other."
        raise invalid_request(message, "continue_final_message", "invalid_value")
    if body.stream and body.prompt_logprobs is not None:
        raise unsupported("prompt_logprobs", "'prompt_logprobs' cannot be streamed.")


def _sampling(body: ChatCompletionRequest, engine: Engine) -> SamplingParams:
    field = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    limit = getattr(body, field)
    if limit is not None and limit < 1:
        raise invalid_request(f"'{field}' must be at least 1.", field, "invalid_value")
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return body.sampling_params(engine.default_sampling, max_tokens=limit, logprobs=logprobs)
