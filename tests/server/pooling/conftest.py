"""The engine without a model, as one that embeds: a text's vector tells its tokens."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from windlass.config import PoolingConfig, PoolingInfo
from windlass.errors import EngineDeadError, RequestFailedError, WindlassError
from windlass.pooling import EmbedParams, PoolingOutput, ScoreParams
from windlass.request import Request, RequestMetrics
from windlass.request_stream import Inbox, RequestStream
from windlass.text.pooling_processor import PoolingJob, PoolingProcessor

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine

EMBEDDER = PoolingInfo(
    task="embed",
    method="mean",
    dimensions=4,
    normalize=False,
    matryoshka=True,
    prompts={"query": "ask: "},
)


def vector_of(request: Request, info: PoolingInfo) -> bytes:
    """Length and sum of the tokens; of a scorer the share of the longest input."""
    ids = request.prompt_token_ids
    if info.task == "score":
        return struct.pack("<f", len(ids) / 256)
    assert request.pooling is not None
    numbers = [float(len(ids)), float(sum(ids)), 1.0, 0.5]
    if request.pooling.normalize:
        length = sum(number**2 for number in numbers) ** 0.5
        numbers = [number / length for number in numbers]
    return struct.pack("<4f", *numbers)[: 4 * (request.pooling.dimensions or 4)]


class Pooling:
    """Gives a `FakeEngine` what embeds and scores; waits for its gate before each answer."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.limits = PoolingConfig(max_inputs=8, max_input_tokens=100)
        self.jobs: list[PoolingJob] = []
        self.priorities: list[int] = []
        self.failure: WindlassError | None = None
        self.aborted: list[str] = []
        self.become(EMBEDDER)

    def become(self, info: PoolingInfo) -> None:
        """Be another kind of model."""
        self.engine.info = replace(self.engine.info, pooling=info, max_model_len=32)
        self.processor = PoolingProcessor(self.engine.info, self.engine.tokenizer, self.limits)

    async def embed(
        self, inputs: Sequence[str | list[int]], params: EmbedParams, *, priority: int = 0
    ) -> RequestStream[PoolingOutput]:
        self.check()
        return self.start(self.processor.embed("job", inputs, params, priority=priority), priority)

    async def score(
        self, pairs: Sequence[tuple[str, str]], params: ScoreParams, *, priority: int = 0
    ) -> RequestStream[PoolingOutput]:
        self.check()
        return self.start(self.processor.score("job", pairs, params, priority=priority), priority)

    def check(self) -> None:
        refusal = self.engine.dead or self.engine.refusal
        if refusal is not None:
            raise refusal

    def start(self, job: PoolingJob, priority: int) -> RequestStream[PoolingOutput]:
        self.jobs.append(job)
        self.priorities.append(priority)
        inbox: Inbox[PoolingOutput] = Inbox(job.request_id)
        self.task = asyncio.create_task(self.run(job, inbox))

        def abort(request_id: str) -> None:
            self.aborted.append(request_id)
            self.task.cancel()
            inbox.end()

        return RequestStream(inbox, abort)

    async def run(self, job: PoolingJob, inbox: Inbox[PoolingOutput]) -> None:
        await self.engine.gate.wait()
        if self.failure is not None:
            inbox.fail(self.failure)
            return
        info = self.engine.info.pooling
        assert info is not None
        vectors = [vector_of(request, info) for request in job.requests]
        inbox.put(job.output(vectors, RequestMetrics(queue_time=0.25)))

    def fail(self, error: WindlassError | None = None) -> None:
        """Let answers end with an error."""
        self.failure = error or RequestFailedError("a step failed")

    def die(self) -> None:
        """Let the engine die under its answers."""
        self.failure = EngineDeadError("the engine process died", retry_after=2.0)


@pytest.fixture
async def pooling(engine: FakeEngine) -> Pooling:
    pooling = Pooling(engine)
    methods: Any = engine
    methods.embed, methods.score = pooling.embed, pooling.score
    return pooling
