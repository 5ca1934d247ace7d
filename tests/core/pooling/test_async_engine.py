"""Embeddings and scores through the asynchronous engine and its real process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from engine_runners import EXIT, HANG, NOT_FINITE, RAISE, summed

from windlass import LLM, AsyncEngine, EngineConfig, SamplingParams
from windlass.config import ModelConfig, PoolingConfig, SchedulerConfig
from windlass.errors import (
    ContextLengthError,
    EngineDeadError,
    QueueFullError,
    RequestError,
    RequestFailedError,
)
from windlass.pooling import EmbedParams, PoolingOutput, ScoreParams, floats
from windlass.request_stream import RequestStream
from windlass.testing.tiny_pooling_models import TEXTS

pytestmark = pytest.mark.usefixtures("engine_runners")

PLAIN = EmbedParams()


@pytest.fixture
def config(tokenizer_folder: str) -> EngineConfig:
    return EngineConfig(model=ModelConfig(model=tokenizer_folder))


@asynccontextmanager
async def started(config: EngineConfig, runner: str = "summing") -> AsyncIterator[AsyncEngine]:
    engine = await AsyncEngine.start(config, runner_factory=f"engine_runners:{runner}")
    try:
        yield engine
    finally:
        await engine.shutdown()


async def last(stream: RequestStream[PoolingOutput]) -> PoolingOutput:
    [output] = [output async for output in stream]
    return output


async def embed(engine: AsyncEngine, inputs: list[Any]) -> list[bytes]:
    return (await last(await engine.embed(inputs, PLAIN))).vectors


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def idle(engine: AsyncEngine) -> None:
    def is_idle() -> bool:
        stats = engine.stats()
        return engine.num_unfinished == stats.num_running == stats.num_waiting == 0

    await until(is_idle)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def test_vectors_come_in_the_order_of_their_texts(config: EngineConfig) -> None:
    async def main() -> None:
        async with started(config) as engine:
            inputs: list[Any] = [[60] * n for n in (9, 1, 400, 30)] + ["rope"]
            output = await last(await engine.embed(inputs, PLAIN, "mine"))
            rope = engine.tokenizer.encode("rope")
            assert output.vectors == [summed(ids) for ids in (*inputs[:4], rope)]
            assert output.request_id == "mine"
            assert output.prompt_tokens == 440 + len(rope)
            assert output.metrics is not None
            assert output.metrics.total_time >= output.metrics.queue_time >= 0
            assert floats(output.vectors[0]) == [9.0, 540.0]
            await idle(engine)
            view = await engine.view()
            assert (view.blocks, view.sequences) == ([], [])

    run(main())


def test_many_calls_at_once_are_batched(tokenizer_folder: str) -> None:
    config = EngineConfig(
        model=ModelConfig(model=tokenizer_folder), scheduler=SchedulerConfig(max_num_seqs=32)
    )

    async def main() -> None:
        async with started(config, "slowly_summing") as engine:
            inputs = [[[50 + i % 100] * (1 + i % 7)] * (1 + i % 3) for i in range(100)]
            answers = await asyncio.gather(*[embed(engine, texts) for texts in inputs])
            assert answers == [[summed(text) for text in texts] for texts in inputs]
            assert engine.stats().num_steps < 30
            await idle(engine)

    run(main())


def test_a_failing_text_fails_its_call_and_no_other(config: EngineConfig) -> None:
    async def main() -> None:
        async with started(config) as engine:
            results = await asyncio.gather(
                embed(engine, [[60], [61]]),
                embed(engine, [[62], [RAISE], [63]]),
                embed(engine, [[NOT_FINITE]]),
                embed(engine, [[64]]),
                return_exceptions=True,
            )
            assert results[0] == [summed([60]), summed([61])]
            assert isinstance(results[1], RequestFailedError)
            assert isinstance(results[2], RequestFailedError)
            assert results[3] == [summed([64])]
            assert engine.restarts == 0
            await idle(engine)

    run(main())


@pytest.mark.parametrize(
    ("inputs", "params", "kind", "param"),
    [
        ([], {}, RequestError, "input"),
        ([""], {}, RequestError, "input"),
        ([[512]], {}, RequestError, "input"),
        ([[60] * 513], {}, ContextLengthError, "input"),
        ([[60]] * 2049, {}, RequestError, "input"),
        (["rope"], {"prompt_name": "query"}, RequestError, "prompt_name"),
        (["rope"], {"dimensions": 3}, RequestError, "dimensions"),
    ],
)
def test_a_wrong_call_is_refused_before_it_is_queued(
    config: EngineConfig, inputs: list[Any], params: dict[str, Any], kind: type, param: str
) -> None:
    async def main() -> None:
        async with started(config) as engine:
            with pytest.raises(kind) as caught:
                await engine.embed(inputs, EmbedParams(**params))
            assert isinstance(caught.value, RequestError)
            assert caught.value.param == param
            assert engine.num_unfinished == engine.stats().num_steps == 0
            assert len(await embed(engine, [[60]] * 2048)) == 2048

    run(main())


def test_who_waits_is_bounded(tokenizer_folder: str) -> None:
    scheduler = SchedulerConfig(max_num_seqs=1, max_queued_requests=2)
    config = EngineConfig(model=ModelConfig(model=tokenizer_folder), scheduler=scheduler)

    async def main() -> None:
        async with started(config, "slowly_summing") as engine:
            streams = [await engine.embed([[60]], PLAIN) for _ in range(3)]
            with pytest.raises(QueueFullError):
                await engine.embed([[60]], PLAIN)
            assert [(await last(s)).vectors for s in streams] == [[summed([60])]] * 3
            assert await embed(engine, [[60]]) == [summed([60])]

    run(main())


@pytest.mark.parametrize("way", ["cancel", "close", "drop"])
def test_a_client_that_leaves_frees_what_waits(tokenizer_folder: str, way: str) -> None:
    config = EngineConfig(
        model=ModelConfig(model=tokenizer_folder), scheduler=SchedulerConfig(max_num_seqs=1)
    )

    async def main() -> None:
        async with started(config, "slowly_summing") as engine:
            stream = await engine.embed([[60]] * 500, PLAIN)
            if way == "cancel":
                waiting = asyncio.create_task(last(stream))
                await asyncio.sleep(0.05)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            elif way == "close":
                await stream.aclose()
            del stream
            assert await embed(engine, [[61]]) == [summed([61])]
            await idle(engine)
            assert engine.stats().num_steps < 100

    run(main())


def test_death_fails_what_is_in_flight_and_the_engine_comes_back(config: EngineConfig) -> None:
    async def main() -> None:
        async with started(config) as engine:
            with pytest.raises(EngineDeadError):
                await embed(engine, [[60], [EXIT]])
            await until(lambda: engine.is_ready)
            assert await embed(engine, [[60]]) == [summed([60])]
            assert engine.restarts == 1
            assert engine.engine_pid is not None
            os.kill(engine.engine_pid, signal.SIGKILL)
            await until(lambda: engine.restarts == 2)
            assert await embed(engine, [[60]]) == [summed([60])]

    run(main())


def test_a_batch_that_hangs_is_noticed(tokenizer_folder: str) -> None:
    config = EngineConfig(model=ModelConfig(model=tokenizer_folder), step_timeout=0.4)

    async def main() -> None:
        async with started(config) as engine:
            assert await embed(engine, [[60]]) == [summed([60])]
            with pytest.raises(EngineDeadError):
                await embed(engine, [[HANG]])
            await until(lambda: engine.is_ready)
            assert await embed(engine, [[60]]) == [summed([60])]

    run(main())


def test_each_kind_of_model_refuses_the_other_kind_of_call(config: EngineConfig) -> None:
    async def main() -> None:
        async with started(config) as engine:
            with pytest.raises(RequestError, match="does not generate") as caught:
                await engine.submit([60], SamplingParams())
            assert caught.value.code == "unsupported_endpoint"
        async with started(config, "fast") as engine:
            for call in (
                engine.embed([[60]], PLAIN),
                engine.score([("a", "b")], ScoreParams()),
            ):
                with pytest.raises(RequestError, match="does not embed or score") as caught:
                    await call
                assert caught.value.code == "unsupported_endpoint"

    run(main())


def test_a_real_model_says_the_same_offline_and_served(bert: tuple[Path, Any]) -> None:
    model = ModelConfig(model=str(bert[0]), dtype="float32")
    config = EngineConfig(model=model, pooling=PoolingConfig(matryoshka=True))
    with LLM.from_config(config) as llm:
        embeddings = [
            o.outputs.embedding for o in llm.embed(list(TEXTS), use_tqdm=False, dimensions=16)
        ]
        scores = [o.outputs.score for o in llm.score(TEXTS[0], list(TEXTS), use_tqdm=False)]

    async def main() -> None:
        engine = await AsyncEngine.start(config)
        try:
            assert engine.info.architecture == "BertModel"
            output = await last(await engine.embed(list(TEXTS), EmbedParams(dimensions=16)))
            for vector, expected in zip(output.vectors, embeddings, strict=True):
                assert floats(vector) == pytest.approx(expected, abs=1e-5)
            pairs = [(TEXTS[0], text) for text in TEXTS]
            scored = await last(await engine.score(pairs, ScoreParams()))
            assert scored.scores == pytest.approx(scores, abs=1e-5)
            assert scored.vectors == []
        finally:
            await engine.shutdown()

    run(main())
