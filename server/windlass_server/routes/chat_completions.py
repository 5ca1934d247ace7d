"""`POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any
from uuid import uuid4

import msgspec
from fastapi import APIRouter
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from windlass.errors import ContextLengthError, RequestError
from windlass.request import CompletionOutput, SamplingParams, TokenLogprobs
from windlass.text import TokensPrompt, encode_chat, render_chat
from windlass_server.engine import Engine
from windlass_server.errors import invalid_request, unsupported
from windlass_server.generation import Answer, Generation
from windlass_server.logprobs import chat_logprobs
from windlass_server.protocol.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    Choice,
    ChoiceLogprobs,
    ChunkChoice,
    ContentPart,
    Delta,
    Message,
    PromptLogprobs,
    ResponseMessage,
)
from windlass_server.protocol.parameters import CHAT_UNSUPPORTED
from windlass_server.routes.request import accept, server_state, whole_answer
from windlass_server.streaming import EventStream, event

router = APIRouter()

_MEDIA_PARTS = frozenset(
    {"image_url", "input_image", "input_audio", "audio_url", "video_url", "file", "input_file"}
)
_MAX_BYTES_OF_A_CHARACTER = 4


@router.post("/v1/chat/completions")
async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation."""
    body, engine, headers = await accept(request, ChatCompletionRequest, CHAT_UNSUPPORTED)
    state = server_state(request)
    _check(body)
    sampling = _sampling(body, engine)
    try:
        prompt = await _prompt(body, engine, state.settings.chat_template)
        generation = await Generation.start(
            state,
            engine,
            [prompt],
            sampling,
            priority=body.priority or 0,
            cache_salt=body.cache_salt or "",
            count_max=body.max_tokens is not None,
        )
    except RequestError as exc:
        if exc.param == "prompt":
            exc.param = "messages"
        raise
    answer = _ChatAnswer(body, engine, generation)
    if body.stream:
        return EventStream(state, answer.events(), headers)
    return await whole_answer(request, answer.whole(), headers)


def _check(body: ChatCompletionRequest) -> None:
    if body.tools is not None and not body.tools:
        raise invalid_request("'tools' must not be empty.", "tools", "invalid_value")
    if body.tool_choice not in (None, "none"):
        raise unsupported("tool_choice")
    if body.tools and body.tool_choice is None:
        raise unsupported("tools", "'tools' is not supported, except with tool_choice 'none'.")
    if body.top_logprobs is not None and not body.logprobs:
        message = "'top_logprobs' needs 'logprobs' to be true."
        raise invalid_request(message, "top_logprobs", "invalid_value")
    if body.add_generation_prompt and body.continue_final_message:
        message = "'continue_final_message' and 'add_generation_prompt' exclude each other."
        raise invalid_request(message, "continue_final_message", "invalid_value")
    if body.stream and body.prompt_logprobs is not None:
        raise unsupported("prompt_logprobs", "'prompt_logprobs' cannot be streamed.")
    for index, message_ in enumerate(body.messages):
        _check_message(message_, f"messages[{index}]")


def _check_message(message: Message, param: str) -> None:
    if message.role == "tool" and message.tool_call_id is None:
        path = f"{param}.tool_call_id"
        text = f"Missing required parameter: '{path}'."
        raise invalid_request(text, path, "missing_required_parameter")
    if message.content is None and not (message.role == "assistant" and message.tool_calls):
        path = f"{param}.content"
        text = f"Missing required parameter: '{path}'."
        raise invalid_request(text, path, "missing_required_parameter")
    if isinstance(message.content, list):
        for index, part in enumerate(message.content):
            _check_part(part, f"{param}.content[{index}]")


def _check_part(part: ContentPart, param: str) -> None:
    if part.type in _MEDIA_PARTS:
        raise unsupported(param, f"'{param}' is of type {part.type}: only text is supported.")
    if part.type != "text":
        text = f"'{param}.type' must be 'text'."
        raise invalid_request(text, f"{param}.type", "invalid_value")
    if part.text is None:
        text = f"Missing required parameter: '{param}.text'."
        raise invalid_request(text, f"{param}.text", "missing_required_parameter")


def _sampling(body: ChatCompletionRequest, engine: Engine) -> SamplingParams:
    field = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    limit = getattr(body, field)
    if limit is not None and limit < 1:
        raise invalid_request(f"'{field}' must be at least 1.", field, "invalid_value")
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return body.sampling_params(engine.default_sampling, max_tokens=limit, logprobs=logprobs)


async def _prompt(
    body: ChatCompletionRequest, engine: Engine, chat_template: str | None
) -> TokensPrompt:
    variables = dict(body.chat_template_kwargs or {})
    if body.reasoning_effort is not None:
        variables.setdefault("reasoning_effort", body.reasoning_effort)
    continuing = bool(body.continue_final_message)
    adding = body.add_generation_prompt
    tokenizer = engine.tokenizer
    longest = engine.info.max_model_len * tokenizer.longest_token

    def render() -> TokensPrompt:
        rendered = render_chat(
            tokenizer,
            [_template_message(message) for message in body.messages],
            add_generation_prompt=not continuing if adding is None else adding,
            continue_final_message=continuing,
            chat_template=chat_template,
            template_kwargs=variables,
            max_bytes=longest * _MAX_BYTES_OF_A_CHARACTER,
        )
        return encode_chat(tokenizer, rendered)

    try:
        return await asyncio.to_thread(render)
    except RequestError as exc:
        if exc.code != "context_length_exceeded":
            raise
        limit = engine.info.max_model_len
        raise ContextLengthError(
            f"This model's maximum context length is {limit} tokens. However, your messages "
            "have more. Shorten them.",
            param="messages",
        ) from None


def _template_message(message: Message) -> dict[str, Any]:
    """Return what a template sees; most know no role "developer", which means "system"."""
    plain = message.model_dump(exclude_none=True)
    if message.role == "developer":
        plain["role"] = "system"
    if message.tool_calls:
        plain["tool_calls"] = [_with_parsed_arguments(call) for call in message.tool_calls]
    return plain


def _with_parsed_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """Return the call with its arguments as an object, which is what templates expect."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = msgspec.json.decode(function["arguments"])
    except (msgspec.DecodeError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}


class _ChatAnswer:
    """Shapes what the engine says into one answer or into the events of a stream."""

    def __init__(self, body: ChatCompletionRequest, engine: Engine, generation: Generation) -> None:
        self._body = body
        self._tokenizer = engine.tokenizer
        self._generation = generation
        self._id = f"chatcmpl-{uuid4().hex}"
        self._created = int(time.time())

    async def whole(self) -> ChatCompletion:
        """Wait for every choice and return the answer."""
        answers = [Answer() for _ in range(self._generation.sampling.n)]
        prompt_logprobs: PromptLogprobs | None = None
        async with aclosing(self._generation.outputs()) as outputs:
            async for _, output in outputs:
                prompt_logprobs = prompt_logprobs or output.prompt_logprobs
                for news in output.outputs:
                    answers[news.index].add(news)
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._body.model,
            choices=[self._choice(index, answer) for index, answer in enumerate(answers)],
            usage=self._generation.usage(),
            prompt_logprobs=UNSET if prompt_logprobs is None else prompt_logprobs,
        )

    def _choice(self, index: int, answer: Answer) -> Choice:
        return Choice(
            index=index,
            message=ResponseMessage(answer.text),
            logprobs=self._logprobs(answer.logprobs),
            finish_reason=str(answer.finish_reason),
        )

    def _logprobs(self, positions: list[TokenLogprobs] | None) -> ChoiceLogprobs | None:
        if not self._body.logprobs:
            return None
        count = self._body.top_logprobs or 0
        return ChoiceLogprobs(chat_logprobs(positions or [], count, self._tokenizer))

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the answer as server-sent events."""
        started: set[int] = set()
        async with aclosing(self._generation.outputs()) as outputs:
            async for _, output in outputs:
                data = b""
                for news in output.outputs:
                    if news.index not in started:
                        started.add(news.index)
                        role = Delta(role="assistant", content="")
                        data += self._chunk(ChunkChoice(news.index, role, None, None))
                    for choice in self._chunk_choice(news):
                        data += self._chunk(choice)
                if data:
                    yield data
        if self._body.wants_usage:
            usage = self._generation.usage()
            yield event(ChatCompletionChunk(self._id, self._created, self._body.model, [], usage))

    def _chunk_choice(self, news: CompletionOutput) -> Iterator[ChunkChoice]:
        """Yield the choice unless it says nothing: a token may hold part of a character only."""
        has_logprobs = bool(self._body.logprobs and news.token_ids)
        if not (news.text or news.finish_reason or has_logprobs):
            return
        delta = Delta(content=news.text) if news.text else Delta()
        logprobs = self._logprobs(news.logprobs) if has_logprobs else None
        yield ChunkChoice(news.index, delta, logprobs, news.finish_reason)

    def _chunk(self, choice: ChunkChoice) -> bytes:
        chunk = ChatCompletionChunk(self._id, self._created, self._body.model, [choice])
        if self._body.wants_usage:
            continuous = self._body.wants_continuous_usage
            chunk.usage = self._generation.usage() if continuous else None
        return event(chunk)
