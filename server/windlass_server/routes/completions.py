"""`POST /v1/completions`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from uuid import uuid4

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from windlass.errors import RequestError
from windlass.request import CompletionOutput, RequestOutput, SamplingParams
from windlass.text import Prompt, TokensPrompt
from windlass_server.engine import Engine
from windlass_server.errors import invalid_request, unsupported
from windlass_server.generation import Answer, Generation
from windlass_server.logprobs import extend_completion_logprobs
from windlass_server.protocol.chat import PromptLogprobs
from windlass_server.protocol.completions import (
    MAX_PROMPTS,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
)
from windlass_server.protocol.parameters import COMPLETION_UNSUPPORTED
from windlass_server.protocol.structured_output import name_constraint
from windlass_server.routes.request import accept, server_state, whole_answer
from windlass_server.streaming import EventStream, event

router = APIRouter()

DEFAULT_MAX_TOKENS = 16


@router.post("/v1/completions")
async def create_completion(request: Request) -> Response:
    """Continue one prompt or several."""
    body, engine, admission = await accept(request, CompletionRequest, COMPLETION_UNSUPPORTED)
    state, headers = server_state(request), admission.headers
    sampling = _sampling(body, engine)
    prompts = _prompts(body, engine, sampling.n)
    try:
        generation = await Generation.start(
            state,
            engine,
            prompts,
            sampling,
            admission,
            priority=body.priority or 0,
            cache_salt=body.cache_salt or "",
            count_max=body.max_tokens is not None,
        )
    except RequestError as exc:
        raise name_constraint(exc, body) from None
    answer = _CompletionAnswer(body, engine, generation, len(prompts))
    if body.stream:
        return EventStream(state, answer.events(), headers)
    return await whole_answer(request, answer.whole(), headers)


def _sampling(body: CompletionRequest, engine: Engine) -> SamplingParams:
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise unsupported("best_of", "'best_of' is not supported other than equal to 'n'.")
    if body.return_tokens_as_token_ids and body.logprobs is None:
        message = "'return_tokens_as_token_ids' needs 'logprobs'."
        raise invalid_request(message, "return_tokens_as_token_ids", "invalid_value")
    if body.stream and body.prompt_logprobs is not None:
        raise unsupported("prompt_logprobs", "'prompt_logprobs' cannot be streamed.")
    limit = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    if limit < (0 if body.echo else 1):
        message = "'max_tokens' must be at least 1, or 0 together with 'echo'."
        raise invalid_request(message, "max_tokens", "invalid_value")
    overrides: dict[str, int | None] = {"max_tokens": max(limit, 1), "logprobs": body.logprobs}
    if body.echo and body.logprobs is not None:
        overrides["prompt_logprobs"] = max(body.logprobs, body.prompt_logprobs or 0)
    return body.sampling_params(engine.default_sampling, **overrides)


def _prompts(body: CompletionRequest, engine: Engine, n: int) -> list[Prompt]:
    if len(body.prompts) * n > MAX_PROMPTS:
        message = f"The number of prompts times 'n' must be at most {MAX_PROMPTS}."
        raise invalid_request(message, "prompt", "invalid_value")
    if body.add_special_tokens is not False:
        return list(body.prompts)
    return [_without_special_tokens(prompt, engine) for prompt in body.prompts]


def _without_special_tokens(prompt: str | list[int], engine: Engine) -> Prompt:
    if not isinstance(prompt, str):
        return prompt
    token_ids = engine.tokenizer.encode(prompt, add_special_tokens=False)
    return TokensPrompt(prompt_token_ids=token_ids, prompt=prompt)


class _CompletionAnswer:
    """Shapes what the engine says into one answer or into the events of a stream."""

    def __init__(
        self, body: CompletionRequest, engine: Engine, generation: Generation, num_prompts: int
    ) -> None:
        self._body = body
        self._tokenizer = engine.tokenizer
        self._generation = generation
        self._n = generation.sampling.n
        self._num_choices = num_prompts * self._n
        self._only_echo = body.max_tokens == 0
        self._as_ids = bool(body.return_tokens_as_token_ids)
        self._id = f"cmpl-{uuid4().hex}"
        self._created = int(time.time())
        self._prompts: dict[int, RequestOutput] = {}
        self._offsets: dict[int, int] = {}

    async def whole(self) -> Completion:
        """Wait for every choice and return the answer."""
        answers = [Answer() for _ in range(self._num_choices)]
        async with aclosing(self._generation.outputs()) as outputs:
            async for prompt_index, output in outputs:
                self._remember_prompt(prompt_index, output)
                for news in output.outputs:
                    answers[prompt_index * self._n + news.index].add(news)
        completion = self._completion(
            [self._whole_choice(index, answer) for index, answer in enumerate(answers)]
        )
        completion.usage = self._generation.usage(count_output=not self._only_echo)
        return completion

    def _completion(self, choices: list[CompletionChoice]) -> Completion:
        return Completion(self._id, self._created, self._body.model, choices)

    def _remember_prompt(self, index: int, output: RequestOutput) -> None:
        if index not in self._prompts or output.prompt_logprobs is not None:
            self._prompts[index] = output

    def _whole_choice(self, index: int, answer: Answer) -> CompletionChoice:
        news = CompletionOutput(
            index=index % self._n,
            text=answer.text,
            token_ids=answer.token_ids,
            logprobs=answer.logprobs,
            finish_reason=answer.finish_reason,
        )
        choice = self._choice(index, news)
        if self._body.prompt_logprobs is not None:
            choice.prompt_logprobs = self._prompt_logprobs(index)
        return choice

    def _prompt_logprobs(self, index: int) -> PromptLogprobs:
        return list(self._prompts[index // self._n].prompt_logprobs or ())

    def _choice(self, index: int, news: CompletionOutput) -> CompletionChoice:
        """Return the news of a choice, with its prompt in front when it is the first one."""
        first = index not in self._offsets
        offset = self._offsets.get(index, 0)
        logprobs = None if self._body.logprobs is None else CompletionLogprobs()
        text = ""
        if first and self._body.echo:
            text, offset = self._echo(index, logprobs)
        if not self._only_echo:
            text += news.text
            if logprobs is not None:
                offset = extend_completion_logprobs(
                    logprobs,
                    news.token_ids,
                    news.logprobs or (),
                    offset,
                    self._tokenizer,
                    as_ids=self._as_ids,
                )
        self._offsets[index] = offset
        reason = "length" if self._only_echo and news.finish_reason else news.finish_reason
        choice = CompletionChoice(index, text, logprobs, reason)
        if self._body.return_token_ids:
            choice.token_ids = list(news.token_ids)
            if first:
                choice.prompt_token_ids = self._prompts[index // self._n].prompt_token_ids
        return choice

    def _echo(self, index: int, logprobs: CompletionLogprobs | None) -> tuple[str, int]:
        prompt = self._prompts[index // self._n]
        text = prompt.prompt
        if text is None:
            text = self._tokenizer.decode(prompt.prompt_token_ids, skip_special_tokens=False)
        if logprobs is None:
            return text, 0
        offset = extend_completion_logprobs(
            logprobs,
            prompt.prompt_token_ids,
            prompt.prompt_logprobs or (),
            0,
            self._tokenizer,
            as_ids=self._as_ids,
        )
        return text, offset

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the answer as server-sent events."""
        async with aclosing(self._generation.outputs()) as outputs:
            async for prompt_index, output in outputs:
                self._remember_prompt(prompt_index, output)
                data = b""
                for news in output.outputs:
                    choice = self._choice(prompt_index * self._n + news.index, news)
                    if choice.text or choice.finish_reason or _has_tokens(choice):
                        data += self._chunk(choice)
                if data:
                    yield data
        if self._body.wants_usage:
            end = self._completion([])
            end.usage = self._generation.usage(count_output=not self._only_echo)
            yield event(end)

    def _chunk(self, choice: CompletionChoice) -> bytes:
        chunk = self._completion([choice])
        if self._body.wants_usage:
            continuous = self._body.wants_continuous_usage
            chunk.usage = self._generation.usage() if continuous else None
        return event(chunk)


def _has_tokens(choice: CompletionChoice) -> bool:
    return bool(choice.token_ids) or bool(choice.logprobs and choice.logprobs.tokens)
