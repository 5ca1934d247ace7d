"""The engine behind a server: in its own process, many requests at once, each a stream."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

from msgspec import structs

from windlass.config import EngineConfig, ModelConfig, ModelInfo, check_config
from windlass.engine.client import EngineClient, ProgressCallback
from windlass.engine.ipc import Outputs, RequestRejected, check_requests
from windlass.engine.link import EngineLink, EngineListener, State
from windlass.engine.outputs import EngineStats, SequenceOutput
from windlass.engine.process import DEFAULT_RUNNER_FACTORY
from windlass.engine.request_limits import check_request
from windlass.engine.view import EngineView
from windlass.errors import (
    EngineDeadError,
    QueueFullError,
    RequestError,
    RequestFailedError,
    WindlassError,
)
from windlass.in_flight import InFlight, InFlightTable
from windlass.pooling import EmbedParams, PoolingOutput, ScoreParams
from windlass.pooling_jobs import PoolingJobs
from windlass.request import RequestOutput, SamplingParams
from windlass.request_stream import Inbox, RequestStream, merge_deltas
from windlass.structured_output.compiler import GrammarCompiler
from windlass.structured_output.vocabulary import Vocabulary
from windlass.text import (
    InputProcessor,
    OutputProcessor,
    ProcessedRequest,
    Prompt,
    Tokenizer,
    load_generation_defaults,
)
from windlass.text.pooling_processor import PoolingJob, PoolingProcessor

logger = logging.getLogger(__name__)

Connect = Callable[[EngineListener], EngineLink]
"""Makes the link to an engine for who uses it."""

_LONG_TEXT = 4096
"""Characters from which on tokenising leaves the event loop."""


class AsyncEngine:
    """One model, many concurrent requests; belongs to the event loop that started it.

    `info` says what was loaded; `default_sampling` are the model's own recommendations, as
    fields of SamplingParams.
    """

    def __init__(self, config: EngineConfig, connect: Connect, id_prefix: str) -> None:
        """Prepare; `start` and `over` are the ways to make one."""
        self.config = config
        self.info: ModelInfo
        self.tokenizer: Tokenizer
        self.default_sampling: dict[str, Any] = {}
        self._client = connect(self)
        self._table = InFlightTable(id_prefix)
        self._inputs: InputProcessor
        self._outputs: OutputProcessor
        self._pooling: PoolingProcessor | None = None
        self._jobs = PoolingJobs()
        self._compiler = GrammarCompiler(
            lambda: Vocabulary.of(self.tokenizer, self.info), self.config.structured_output
        )
        self._draining = False

    @classmethod
    async def start(
        cls,
        config: EngineConfig,
        progress: ProgressCallback | None = None,
        *,
        runner_factory: str = DEFAULT_RUNNER_FACTORY,
    ) -> AsyncEngine:
        """Start the engine process and wait until the model is loaded.

        `progress` gets (what is loaded, share done). `runner_factory` is a "module:function"
        that makes the ModelRunner in the engine process.

        Raises:
            WindlassError: the model, the backend or a setting is wrong; the text says which.
        """
        config = check_config(config)
        connect = partial(EngineClient, config, runner_factory=runner_factory, progress=progress)
        return await cls.over(config, connect)

    @classmethod
    async def over(
        cls, config: EngineConfig, connect: Connect, *, id_prefix: str = ""
    ) -> AsyncEngine:
        """Serve with the engine to which `connect` makes the link, as soon as it is there.

        Where an engine has several front ends, each has an `id_prefix` of its own.

        Raises:
            WindlassError: there is no engine, or the model's text files are wrong.
        """
        engine = cls(config, connect, id_prefix)
        try:
            engine.info, text = await asyncio.gather(
                engine._client.start(), asyncio.to_thread(_load_text, engine.config.model)
            )
        except BaseException:
            await engine._client.close()
            raise
        engine.tokenizer, engine.default_sampling = text
        engine._inputs = InputProcessor(engine.info, engine.tokenizer)
        engine._outputs = OutputProcessor(engine.tokenizer)
        if engine.info.pooling is not None:
            engine._pooling = PoolingProcessor(engine.info, engine.tokenizer, engine.config.pooling)
        return engine

    # -- requests -------------------------------------------------------------------------

    async def submit(
        self,
        prompt: Prompt,
        sampling: SamplingParams,
        request_id: str | None = None,
        *,
        priority: int = 0,
        cache_salt: str = "",
        delta: bool = False,
    ) -> RequestStream[RequestOutput]:
        """Queue a request and return its stream; with `delta`, outputs hold only what is new.

        Everything that can be refused is refused here, before anything is queued.

        Raises:
            RequestError: the request is wrong (ContextLengthError, QueueFullError are such).
            EngineDeadError: the engine is down; `retry_after` says when to come back.
        """
        arrival_time = time.monotonic()
        if self.info.pooling is not None:
            raise RequestError("This model does not generate text.", code="unsupported_endpoint")
        request_id = request_id or f"req-{uuid4().hex}"
        self._admit(request_id, sequences=1, tokens=0)
        process = partial(
            self._inputs.process,
            self._table.new_engine_id(),
            prompt,
            sampling,
            priority=priority,
            cache_salt=cache_salt,
            arrival_time=arrival_time,
        )
        long = _text_length(prompt) >= _LONG_TEXT
        processed = await asyncio.to_thread(process) if long else process()
        check_requests(processed.requests)
        # The sequences of a request differ only in their seeds: one stands for all.
        check_request(processed.requests[0], self.info)
        await self._compiler.check(sampling)
        sequences = len(processed.requests)
        tokens = len(processed.prompt_token_ids) * sequences
        self._admit(request_id, sequences=sequences, tokens=tokens)
        return self._enqueue(processed, request_id, delta=delta)

    async def generate(
        self,
        prompt: Prompt,
        sampling: SamplingParams,
        request_id: str | None = None,
        *,
        priority: int = 0,
        cache_salt: str = "",
        delta: bool = False,
    ) -> AsyncGenerator[RequestOutput]:
        """Submit a request and yield its outputs; raises what `submit` and the stream raise."""
        stream = await self.submit(
            prompt, sampling, request_id, priority=priority, cache_salt=cache_salt, delta=delta
        )
        try:
            async for output in stream:
                yield output
        finally:
            await stream.aclose()

    async def embed(
        self,
        inputs: Sequence[str | list[int]],
        params: EmbedParams,
        request_id: str | None = None,
        *,
        priority: int = 0,
    ) -> RequestStream[PoolingOutput]:
        """Queue texts (or token ids) to embed; the stream has one output, with all vectors.

        Raises:
            RequestError: an input or a parameter is wrong, or the model does not embed.
            EngineDeadError: the engine is down; `retry_after` says when to come back.
        """
        long = sum(len(text) for text in inputs if isinstance(text, str)) >= _LONG_TEXT
        process = partial(self._texts().embed, inputs=inputs, params=params, priority=priority)
        return await self._submit_job(process, request_id, long=long)

    async def score(
        self,
        pairs: Sequence[tuple[str, str]],
        params: ScoreParams,
        request_id: str | None = None,
        *,
        priority: int = 0,
    ) -> RequestStream[PoolingOutput]:
        """Queue pairs of texts to score; the stream has one output, with all scores.

        Raises:
            RequestError: a pair or a parameter is wrong, or the model does not score.
            EngineDeadError: the engine is down; `retry_after` says when to come back.
        """
        long = sum(len(first) + len(second) for first, second in pairs) >= _LONG_TEXT
        process = partial(self._texts().score, pairs=pairs, params=params, priority=priority)
        return await self._submit_job(process, request_id, long=long)

    def _texts(self) -> PoolingProcessor:
        if self._pooling is None:
            raise RequestError(
                "This model generates text; it does not embed or score.",
                code="unsupported_endpoint",
            )
        return self._pooling

    async def _submit_job(
        self, process: Callable[..., PoolingJob], request_id: str | None, *, long: bool
    ) -> RequestStream[PoolingOutput]:
        request_id = request_id or f"req-{uuid4().hex}"
        self._admit(request_id, sequences=1, tokens=0)
        process = partial(process, self._table.new_engine_id(), arrival_time=time.monotonic())
        job = await asyncio.to_thread(process) if long else process()
        self._admit(request_id, sequences=len(job.requests), tokens=job.num_tokens)
        inbox: Inbox[PoolingOutput] = Inbox(request_id)
        self._client.add_requests(job.requests)
        self._jobs.add(job)
        self._table.add(job.request_id, job.requests, inbox)
        return RequestStream(inbox, self.abort)

    def abort(self, request_id: str) -> None:
        """Stop a request: its stream ends without more news. Unknown ids are ignored."""
        in_flight = self._table.by_client_id.get(request_id)
        if in_flight is not None:
            self._drop(in_flight)
            in_flight.inbox.end()

    async def reset_prefix_cache(self) -> bool:
        """Drop cached blocks; False when that is not possible now."""
        return await self._client.reset_prefix_cache()

    async def view(self) -> EngineView:
        """Return what stands where in the engine, under the ids that clients know.

        Raises:
            EngineDeadError: the engine is down, or dies before it answers.
        """
        view = await self._client.view()
        # Another caller may have got the same view: it is not changed but copied.
        named = [
            structs.replace(seq, request_id=self._table.client_id(seq.request_id))
            for seq in view.sequences
        ]
        return structs.replace(view, sequences=named)

    def _admit(self, request_id: str, *, sequences: int, tokens: int) -> None:
        """Refuse what cannot be queued now; an idle engine takes anything."""
        if self._draining:
            raise EngineDeadError("the engine is shutting down: it takes no new requests")
        self._client.check_ready()
        if request_id in self._table.by_client_id:
            message = f"A request with the id {request_id!r} is still running: use another id."
            raise RequestError(message, param="request_id", code="duplicate_request_id")
        bounds = self.config.scheduler
        unfinished = len(self._table.by_sequence)
        limit = bounds.max_num_seqs + bounds.max_queued_requests
        if bounds.max_queued_requests and unfinished and unfinished + sequences > limit:
            raise QueueFullError(
                f"The queue is full: {unfinished} sequences are unfinished, the limit is {limit}."
            )
        queued, most = self._table.queued_tokens, bounds.max_queued_tokens
        if most and queued and queued + tokens > most:
            raise QueueFullError(
                f"The queue is full: {queued} prompt tokens wait and the limit is {most}."
            )

    def _enqueue(
        self, processed: ProcessedRequest, request_id: str, *, delta: bool
    ) -> RequestStream[RequestOutput]:
        inbox = Inbox(request_id, merge_deltas if delta else None)
        self._client.add_requests(processed.requests)
        self._outputs.add(processed, delta=delta)
        self._table.add(processed.request_id, processed.requests, inbox)
        return RequestStream(inbox, self.abort)

    # -- news from the engine -------------------------------------------------------------

    @property
    def has_unfinished(self) -> bool:
        """Whether a request is in flight."""
        return bool(self._table.by_engine_id)

    def on_outputs(self, message: Outputs) -> None:
        """Hand the news of a step to their streams."""
        outputs: list[SequenceOutput] = []
        owners: dict[str, InFlight] = {}
        for output in message.outputs:
            in_flight = self._accept(output)
            if in_flight is not None and output.pooled is not None:
                self._deliver_pooled(output)
            elif in_flight is not None:
                outputs.append(output)
                owners[in_flight.engine_id] = in_flight
        if not outputs:
            return
        try:
            results, stopped = self._outputs.update(outputs)
        except Exception:
            logger.exception("The news of a step could not be read: its requests end here")
            for engine_id in owners.keys() & self._table.by_engine_id.keys():
                self._fail(owners[engine_id], RequestFailedError("the answer could not be read"))
            return
        for result in results:
            stopped += self._deliver(result)
        if stopped:
            for sequence_id in stopped:
                self._table.end_sequence(sequence_id)
            self._client.abort(stopped)

    def on_rejected(self, message: RequestRejected) -> None:
        """End a request that the engine refused."""
        in_flight = self._table.by_sequence.get(message.request_id)
        if in_flight is not None:
            error = RequestError(message.message, param=message.param, code=message.code)
            self._fail(in_flight, error)

    def on_death(self, error: EngineDeadError) -> None:
        """End everything in flight."""
        for in_flight in list(self._table.by_engine_id.values()):
            self._fail(in_flight, EngineDeadError(str(error), retry_after=error.retry_after))

    def _accept(self, output: SequenceOutput) -> InFlight | None:
        """Note what became of a sequence; None when there is nothing for its stream in it."""
        in_flight = self._table.by_sequence.get(output.request_id)
        if in_flight is None:
            return None
        self._table.answered(in_flight)
        if output.finished:
            self._table.end_sequence(output.request_id)
        if output.finish_reason == "error":
            reason = output.error or "a step failed on this request"
            self._fail(in_flight, RequestFailedError(reason))
            return None
        return in_flight

    def _deliver_pooled(self, output: SequenceOutput) -> None:
        result = self._jobs.take(output)
        if result is not None:
            self._deliver(result)

    def _deliver(self, result: RequestOutput | PoolingOutput) -> list[str]:
        """Put a result into its stream; returns the sequences that need not go on."""
        in_flight = self._table.by_engine_id.get(result.request_id)
        if in_flight is None:
            return []
        result.request_id = in_flight.inbox.request_id
        in_flight.inbox.put(result)
        return self._table.remove(in_flight) if result.finished else []

    def _fail(self, in_flight: InFlight, error: WindlassError) -> None:
        self._drop(in_flight)
        in_flight.inbox.fail(error)

    def _drop(self, in_flight: InFlight) -> None:
        unfinished = self._table.remove(in_flight)
        self._outputs.abort(in_flight.engine_id)
        self._jobs.drop(in_flight.engine_id)
        if unfinished:
            self._client.abort(unfinished)

    # -- state ----------------------------------------------------------------------------

    @property
    def num_unfinished(self) -> int:
        """Requests in flight."""
        return len(self._table.by_engine_id)

    @property
    def restarts(self) -> int:
        """How often a dead engine process was replaced."""
        return self._client.restarts

    @property
    def is_ready(self) -> bool:
        """Whether new requests are taken."""
        return self._client.state is State.READY and not self._draining

    @property
    def engine_pid(self) -> int | None:
        """The engine's process id, None while there is none."""
        return self._client.pid

    def stats(self) -> EngineStats:
        """The engine's latest gauges and counters; counters start again with a new process."""
        return self._client.stats

    def check_health(self) -> None:
        """Raise EngineDeadError when the engine is down or makes no progress on pending work."""
        self._client.check_ready()
        if self._client.hung:
            limit = self.config.step_timeout
            raise EngineDeadError(f"the engine hangs: no step ended within {limit:g} s")

    async def drain(self, timeout: float) -> bool:
        """Take no new requests and wait for those in flight; False when `timeout` s pass first."""
        self._draining = True
        try:
            await asyncio.wait_for(self._table.idle.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def shutdown(self) -> None:
        """End the engine process; what is still in flight ends with EngineDeadError."""
        self._draining = True
        self.on_death(EngineDeadError("the engine was shut down"))
        await asyncio.to_thread(self._compiler.close)
        await self._client.close()


def _load_text(model: ModelConfig) -> tuple[Tokenizer, dict[str, Any]]:
    tokenizer = Tokenizer.load(*model.tokenizer_location)
    return tokenizer, load_generation_defaults(model.model, model.revision)


def _text_length(prompt: Prompt) -> int:
    if isinstance(prompt, dict):
        prompt = str(prompt.get("prompt", ""))
    return len(prompt) if isinstance(prompt, str) else 0
