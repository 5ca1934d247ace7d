"""One API call on the engine: its prompts submitted, their outputs merged, counted and ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from windlass.errors import (
    EngineDeadError,
    EngineError,
    QueueFullError,
    RequestError,
    RequestFailedError,
)
from windlass.request import (
    CompletionOutput,
    FinishReason,
    RequestOutput,
    SamplingParams,
    TokenLogprobs,
)
from windlass.text import Prompt
from windlass_server.access.size import Size, estimated_tokens
from windlass_server.disconnect import cancel
from windlass_server.engine import Engine, RequestStream
from windlass_server.errors import ApiError, engine_away
from windlass_server.metrics import RequestTimer
from windlass_server.operations.record import current_record
from windlass_server.protocol.usage import Usage

if TYPE_CHECKING:
    from windlass_server.access.admission import Admission
    from windlass_server.state import ServerState

logger = logging.getLogger(__name__)

Output = tuple[int, RequestOutput]
"""The index of the prompt and its news."""


class Generation:
    """The engine requests of one API call, one per prompt."""

    def __init__(
        self,
        state: ServerState,
        engine: Engine,
        sampling: SamplingParams,
        admission: Admission,
    ) -> None:
        self.sampling = sampling
        self._state = state
        self._engine = engine
        self._model = state.models.of(engine)
        self._admission = admission
        self._meter = admission.meter
        self._streams: list[RequestStream[RequestOutput]] = []
        self._timers: list[RequestTimer] = []
        self._open = 0
        self._failed = False
        self._prompt_tokens: dict[int, int] = {}
        self._cached_tokens: dict[int, int] = {}

    @classmethod
    async def start(
        cls,
        state: ServerState,
        engine: Engine,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        admission: Admission,
        *,
        priority: int = 0,
        cache_salt: str = "",
        count_max: bool = False,
    ) -> Generation:
        """Wait for the call's turn and submit every prompt; when one is refused, none is left.

        `count_max` says that the client itself set `max_tokens`.

        Raises:
            RequestError, ApiError: it was refused; nothing has been sent to the client.
            ClientDisconnected: nobody waits for the answer.
        """
        generation = cls(state, engine, sampling, admission)
        model = generation._model
        try:
            size = _size(prompts, sampling, engine.info.max_model_len)
            await admission.enter(state.access.queue_of(model, engine), size)
            salt = admission.salted(cache_salt)
            for prompt in prompts:
                stream = await engine.submit(
                    prompt, sampling, priority=priority, cache_salt=salt, delta=True
                )
                generation._add(stream, count_max=count_max)
            admission.deadline.check()
        except BaseException as exc:
            admission.refuse()
            await generation.aclose()
            if isinstance(exc, EngineDeadError):
                raise state.ended_by_server(model, engine) or engine_away(exc) from exc
            if isinstance(exc, QueueFullError):
                model.metrics.queue_rejections.inc()
            raise
        admission.deadline.watch(generation._expire, lambda: bool(generation._prompt_tokens))
        return generation

    def _expire(self, _error: ApiError) -> None:
        for stream in self._streams:
            stream.abort()

    def _add(self, stream: RequestStream[RequestOutput], *, count_max: bool) -> None:
        self._streams.append(stream)
        self._open += self.sampling.n
        timer = RequestTimer(self._model.metrics, self.sampling, count_max=count_max)
        self._timers.append(timer)
        record = current_record()
        record.sampling = self.sampling
        record.timers.append(timer)

    async def outputs(self) -> AsyncGenerator[Output, None]:
        """Yield the news of all prompts until every choice has finished.

        Raises:
            RequestError: the engine refused a prompt after all; nothing came of it.
            RequestFailedError, EngineDeadError, ApiError: a choice did not finish.
        """
        source = self._merged() if len(self._streams) > 1 else self._single()
        try:
            async with aclosing(source) as outputs:
                async for index, output in outputs:
                    self._count(index, output)
                    yield index, output
            if self._open:
                early = RequestFailedError("The engine ended the request before it finished.")
                raise self._admission.deadline.error or early
        except RequestError:
            self._failed = True
            raise
        except EngineError:
            self._failed = True
            ended = self._state.ended_by_server(self._model, self._engine)
            if ended is not None:
                raise ended from None
            raise
        finally:
            await self.aclose()

    async def _single(self) -> AsyncGenerator[Output, None]:
        async for output in self._streams[0]:
            yield 0, output

    async def _merged(self) -> AsyncGenerator[Output, None]:
        queue: asyncio.Queue[tuple[int, RequestOutput | Exception | None]]
        queue = asyncio.Queue(len(self._streams))

        async def pump(index: int, stream: RequestStream[RequestOutput]) -> None:
            try:
                async for output in stream:
                    await queue.put((index, output))
            except Exception as exc:
                await queue.put((index, exc))
                raise
            await queue.put((index, None))

        pumps = [asyncio.create_task(pump(i, s)) for i, s in enumerate(self._streams)]
        try:
            running = len(pumps)
            while running:
                index, item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                if item is None:
                    running -= 1
                else:
                    yield index, item
        finally:
            await cancel(*pumps)

    def _count(self, index: int, output: RequestOutput) -> None:
        self._timers[index].observe(output)
        self._prompt_tokens.setdefault(index, len(output.prompt_token_ids))
        self._cached_tokens.setdefault(index, output.num_cached_tokens)
        for choice in output.outputs:
            self._meter.completion_tokens += len(choice.token_ids)
            if choice.finish_reason in ("abort", "error"):
                raise RequestFailedError("The engine gave the request up.")
            if choice.finish_reason is not None:
                self._open -= 1

    async def aclose(self) -> None:
        """Abort what has not finished; may be called twice."""
        streams, self._streams = self._streams, []
        if self._prompt_tokens:
            self._meter.prompt_tokens = sum(self._prompt_tokens.values())
        self._admission.leave()
        for timer in self._timers:
            timer.end(failed=self._failed)
        for stream in streams:
            await stream.aclose()

    def usage(self, *, count_output: bool = True) -> Usage:
        """Return the tokens so far, of all prompts and choices."""
        return Usage.of(
            sum(self._prompt_tokens.values()),
            self._meter.completion_tokens if count_output else 0,
            sum(self._cached_tokens.values()),
        )


def _size(prompts: Sequence[Prompt], sampling: SamplingParams, max_model_len: int) -> Size:
    sequences = len(prompts) * sampling.n
    max_tokens = min(sampling.max_tokens or 0, max_model_len) * sequences
    return Size(sequences, sum(map(estimated_tokens, prompts)), max_tokens)


@dataclass(slots=True)
class Answer:
    """One choice, put together from its news."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def add(self, news: CompletionOutput) -> None:
        """Append what is new."""
        self.texts.append(news.text)
        self.token_ids += news.token_ids
        self.logprobs += news.logprobs or ()
        self.finish_reason = news.finish_reason or self.finish_reason

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.texts)
