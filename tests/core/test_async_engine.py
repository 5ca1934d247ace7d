"""The asynchronous engine on real engine processes whose runner counts."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from engine_runners import EXIT, HANG, RAISE, answer

from windlass import AsyncEngine, EngineConfig, RequestOutput, SamplingParams
from windlass.config import CacheConfig, ModelConfig, SchedulerConfig
from windlass.errors import (
    ConfigError,
    ContextLengthError,
    EngineDeadError,
    ModelError,
    QueueFullError,
    RequestError,
    RequestFailedError,
)
from windlass.request_stream import RequestStream

pytestmark = pytest.mark.usefixtures("engine_runners")

PROMPT = [60, 61, 62]
FIVE = SamplingParams(max_tokens=5, seed=1)
LONG = SamplingParams(max_tokens=2_000, seed=1, ignore_eos=True)


@pytest.fixture
def config(tokenizer_folder: str) -> EngineConfig:
    return EngineConfig(model=ModelConfig(model=tokenizer_folder))


@asynccontextmanager
async def started(config: EngineConfig, runner: str = "fast") -> AsyncIterator[AsyncEngine]:
    engine = await AsyncEngine.start(config, runner_factory=f"engine_runners:{runner}")
    try:
        yield engine
    finally:
        await engine.shutdown()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def idle(engine: AsyncEngine) -> None:
    """Wait until the engine says that it holds nothing."""
    await until(
        lambda: (
            engine.num_unfinished == engine.stats().num_running == engine.stats().num_waiting == 0
            and engine.stats().num_free_blocks == engine.stats().num_blocks
        )
    )


async def last(stream: RequestStream[RequestOutput]) -> RequestOutput:
    outputs = [output async for output in stream]
    assert outputs[-1].finished
    return outputs[-1]


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def test_an_answer_streams_and_the_last_output_is_whole(config: EngineConfig) -> None:
    async def main() -> None:
        async with started(config, "slow") as engine:
            stream = await engine.submit(PROMPT, FIVE, "mine")
            outputs = [output async for output in stream]
            # Two steps may come as one output when the consumer is late.
            tokens = [list(o.outputs[0].token_ids) for o in outputs]
            assert tokens == [answer(PROMPT, len(so_far)) for so_far in tokens]
            assert tokens[-1] == answer(PROMPT, 5)
            assert outputs[-1].request_id == stream.request_id == "mine"
            assert outputs[-1].outputs[0].finish_reason == "length"
            expected = engine.tokenizer.decode(answer(PROMPT, 5))
            assert outputs[-1].outputs[0].text == expected
            assert engine.info.architecture == "Counting"
            assert engine.default_sampling == {"temperature": 0.5}
            assert engine.is_ready
            await idle(engine)

    run(main())


def test_deltas_add_up_even_when_the_consumer_is_slow(config: EngineConfig) -> None:
    async def main() -> None:
        async with started(config) as engine:
            sampling = SamplingParams(max_tokens=200, seed=1, n=3, logprobs=None)
            tokens: dict[int, list[int]] = {0: [], 1: [], 2: []}
            takes = 0
            async for output in engine.generate(PROMPT, sampling, delta=True):
                takes += 1
                for completion in output.outputs:
                    tokens[completion.index] += completion.token_ids
                await asyncio.sleep(0.02)
            assert tokens == dict.fromkeys(range(3), answer(PROMPT, 200))
            assert takes < 200

    run(main())


def test_a_fast_engine_does_not_starve_its_consumers(config: EngineConfig) -> None:
    async def count(engine: AsyncEngine, number: int) -> int:
        outputs = engine.generate([60 + number], SamplingParams(max_tokens=400, seed=1), delta=True)
        return len([output async for output in outputs])

    async def main() -> None:
        async with started(config) as engine:
            counts = await asyncio.gather(*[count(engine, number) for number in range(64)])
            assert min(counts) >= 10

    run(main())


def test_text_prompts_of_any_length_and_stop_strings(config: EngineConfig) -> None:
    async def main() -> None:
        async with started(config) as engine:
            long_text = "rope " * 1_200
            result = await last(await engine.submit(long_text, FIVE))
            assert result.prompt_token_ids == engine.tokenizer.encode(long_text)

            whole = engine.tokenizer.decode(answer(PROMPT, 20))
            stop = whole[4:6]
            result = await last(
                await engine.submit(PROMPT, SamplingParams(max_tokens=2_000, stop=stop, seed=1))
            )
            assert result.outputs[0].text == whole[: whole.index(stop)]
            assert result.outputs[0].stop_reason == stop
            await idle(engine)

    run(main())


@pytest.mark.parametrize(
    ("prompt", "arguments", "kind", "param"),
    [
        ([], {}, RequestError, "prompt"),
        ([100_000], {}, RequestError, "prompt"),
        ([60] * 5_000, {}, ContextLengthError, "prompt"),
        # Fits into the model's context, but not into a cache of 9 blocks of 16 tokens.
        ([60] * 200, {}, ContextLengthError, "prompt"),
        (PROMPT, {"sampling": SamplingParams(ignore_eos="yes")}, RequestError, None),  # type: ignore[arg-type]
        (PROMPT, {"cache_salt": "x" * 2_000}, RequestError, "cache_salt"),
    ],
)
def test_a_wrong_request_is_refused_before_it_is_queued(
    tokenizer_folder: str,
    prompt: list[int],
    arguments: dict[str, Any],
    kind: type[RequestError],
    param: str | None,
) -> None:
    config = EngineConfig(
        model=ModelConfig(model=tokenizer_folder), cache=CacheConfig(num_blocks=10)
    )

    async def main() -> None:
        async with started(config) as engine:
            with pytest.raises(kind) as caught:
                await engine.submit(prompt, **{"sampling": FIVE, **arguments})
            assert caught.value.param == param
            assert engine.num_unfinished == 0
            assert engine.stats().num_steps == 0

    run(main())


def test_an_id_in_use_is_refused_and_free_again_after_an_abort(config: EngineConfig) -> None:
    async def main() -> None:
        async with started(config, "slow") as engine:
            first = await engine.submit(PROMPT, LONG, "same")
            await anext(first)
            with pytest.raises(RequestError, match="same") as caught:
                await engine.submit(PROMPT, FIVE, "same")
            assert caught.value.param == "request_id"
            for _ in range(20):
                engine.abort("same")
                again = await engine.submit([90], LONG, "same")
                # Nothing of the former request ever shows up.
                assert list((await anext(again)).outputs[0].token_ids)[:1] == answer([90], 1)
            engine.abort("same")
            engine.abort("same")
            engine.abort("nobody")
            assert [output async for output in again] == []
            await idle(engine)

    run(main())


@pytest.mark.parametrize("way", ["break", "close", "cancel", "drop", "abort", "before the first"])
def test_a_client_that_leaves_frees_everything(config: EngineConfig, way: str) -> None:
    async def leave(engine: AsyncEngine) -> None:
        stream = await engine.submit(PROMPT, LONG)
        if way == "before the first":
            return
        if way == "break":
            async for _ in stream:
                break
            return
        await anext(stream)
        if way == "close":
            await stream.aclose()
        elif way == "abort":
            engine.abort(stream.request_id)
            assert len([output async for output in stream]) <= 1
        elif way == "cancel":
            consuming = asyncio.create_task(last(stream))
            await asyncio.sleep(0.02)
            consuming.cancel()
            with pytest.raises(asyncio.CancelledError):
                await consuming

    async def main() -> None:
        async with started(config, "slow") as engine:
            await leave(engine)
            # Its answer comes behind whatever the engine was told before.
            await last(await engine.submit(PROMPT, FIVE))
            await idle(engine)
            assert engine.stats().generation_tokens < 2_000

    run(main())


def test_a_generator_that_is_closed_aborts(config: EngineConfig) -> None:
    async def main() -> None:
        async with started(config, "slow") as engine:
            outputs = engine.generate(PROMPT, LONG)
            await anext(outputs)
            await outputs.aclose()
            await idle(engine)
            await last(await engine.submit(PROMPT, FIVE))
            assert engine.stats().generation_tokens < 2_000

    run(main())


def test_two_hundred_clients_with_random_disconnects_leave_nothing(
    tokenizer_folder: str,
) -> None:
    config = EngineConfig(
        model=ModelConfig(model=tokenizer_folder),
        cache=CacheConfig(num_blocks=300),
        scheduler=SchedulerConfig(max_num_seqs=32),
    )
    generator = random.Random(3)
    ends: list[str] = []

    async def client(engine: AsyncEngine, number: int, leaves_after: int | None) -> None:
        prompt = [50 + number % 100] * (1 + number % 40)
        length = 1 + number % 60
        tokens: list[int] = []
        sampling = SamplingParams(max_tokens=length, seed=number)
        async for output in engine.generate(prompt, sampling, delta=number % 2 == 0):
            new = list(output.outputs[0].token_ids)
            tokens = tokens + new if number % 2 == 0 else new
            if leaves_after is not None and len(tokens) > leaves_after:
                ends.append("left")
                return
        assert tokens == answer(prompt, length)
        ends.append("whole")

    async def main() -> None:
        async with started(config) as engine, asyncio.timeout(120):
            async with asyncio.TaskGroup() as clients:
                for number in range(200):
                    leaves_after = generator.choice([None, None, generator.randrange(60)])
                    clients.create_task(client(engine, number, leaves_after))
            await idle(engine)
            assert await engine.drain(1)

    run(main())
    assert len(ends) == 200
    assert {"left", "whole"} == set(ends)


def test_a_kill_in_the_middle_ends_every_request_once_and_the_engine_serves_again(
    config: EngineConfig,
) -> None:
    ends: dict[int, list[str]] = {number: [] for number in range(50)}

    async def client(engine: AsyncEngine, number: int) -> None:
        sampling = SamplingParams(max_tokens=1 + 20 * (number % 20), seed=1)
        try:
            stream = await engine.submit([60 + number], sampling)
            result = await last(stream)
            ends[number].append(str(result.outputs[0].finish_reason))
        except EngineDeadError as error:
            ends[number].append("dead" if error.retry_after else "dead for good")

    async def main() -> None:
        async with started(config, "slow") as engine:
            dead = engine.engine_pid
            assert dead is not None
            async with asyncio.timeout(60), asyncio.TaskGroup() as clients:
                for number in range(50):
                    clients.create_task(client(engine, number))
                await until(lambda: engine.stats().generation_tokens > 200)
                os.kill(dead, signal.SIGKILL)
            with pytest.raises(EngineDeadError, match="restarting"):
                engine.check_health()
            assert not engine.is_ready
            assert not Path(f"/proc/{dead}").exists()

            await until(lambda: engine.is_ready)
            engine.check_health()
            result = await last(await engine.submit(PROMPT, FIVE))
            assert list(result.outputs[0].token_ids) == answer(PROMPT, 5)
            assert engine.restarts == 1
            await idle(engine)

    run(main())
    assert all(len(end) == 1 for end in ends.values())
    assert {"dead", "length"} == {end for (end,) in ends.values()}


def test_a_request_that_kills_the_engine_gets_an_error_and_so_does_a_request_meanwhile(
    config: EngineConfig,
) -> None:
    async def main() -> None:
        async with started(config) as engine:
            with pytest.raises(EngineDeadError, match="exit code 7"):
                await last(await engine.submit([60, EXIT], FIVE))
            with pytest.raises(EngineDeadError, match="restarting") as caught:
                await engine.submit(PROMPT, FIVE)
            assert caught.value.retry_after is not None
            assert engine.num_unfinished == 0

    run(main())


def test_a_request_that_makes_a_step_fail_ends_alone(config: EngineConfig) -> None:
    async def main() -> None:
        async with started(config, "slow") as engine:
            good = [await engine.submit([60 + i], FIVE) for i in range(8)]
            poison = SamplingParams(max_tokens=5, seed=1, n=2)
            bad = await engine.submit([60, RAISE], poison)
            with pytest.raises(RequestFailedError):
                await last(bad)
            for i, stream in enumerate(good):
                result = await last(stream)
                assert list(result.outputs[0].token_ids) == answer([60 + i], 5)
            assert engine.restarts == 0
            await idle(engine)

    run(main())


def test_a_hang_is_unhealthy_then_an_error_then_over(tokenizer_folder: str) -> None:
    config = EngineConfig(model=ModelConfig(model=tokenizer_folder), step_timeout=0.5)

    async def main() -> None:
        async with started(config) as engine:
            await last(await engine.submit(PROMPT, FIVE))
            engine.check_health()
            stream = await engine.submit([60, HANG], FIVE)

            def unhealthy() -> bool:
                try:
                    engine.check_health()
                except EngineDeadError:
                    return True
                return False

            await until(unhealthy)
            with pytest.raises(EngineDeadError, match="no step ended"):
                await last(stream)
            await until(lambda: engine.is_ready)
            await last(await engine.submit(PROMPT, FIVE))

    run(main())


def test_a_full_queue_refuses_and_an_idle_engine_takes_anything(tokenizer_folder: str) -> None:
    config = EngineConfig(
        model=ModelConfig(model=tokenizer_folder),
        scheduler=SchedulerConfig(max_num_seqs=2, max_queued_requests=2),
    )

    async def main() -> None:
        async with started(config, "slow") as engine:
            wide = SamplingParams(max_tokens=2_000, seed=1, n=4)
            stream = await engine.submit(PROMPT, wide)
            with pytest.raises(QueueFullError, match="limit is 4") as caught:
                await engine.submit(PROMPT, FIVE)
            assert caught.value.retry_after > 0
            stream.abort()
            await last(await engine.submit(PROMPT, FIVE))
            await idle(engine)

    run(main())


def test_a_bound_on_queued_tokens_refuses_only_while_they_wait(tokenizer_folder: str) -> None:
    config = EngineConfig(
        model=ModelConfig(model=tokenizer_folder),
        scheduler=SchedulerConfig(max_num_seqs=1, max_queued_tokens=100),
    )

    async def main() -> None:
        async with started(config, "slow") as engine:
            first = await engine.submit([60] * 300, LONG)
            with pytest.raises(QueueFullError, match="300 prompt tokens wait"):
                await engine.submit([60] * 10, FIVE)
            await anext(first)
            second = await engine.submit([60] * 90, FIVE)
            with pytest.raises(QueueFullError, match="90 prompt tokens wait"):
                await engine.submit([60] * 20, FIVE)
            first.abort()
            await last(second)

    run(main())


def test_draining_finishes_what_runs_and_takes_nothing_new(config: EngineConfig) -> None:
    async def main() -> None:
        async with started(config, "slow") as engine:
            running = asyncio.create_task(last(await engine.submit(PROMPT, FIVE)))
            endless = await engine.submit(PROMPT, LONG)
            assert not await engine.drain(0.2)
            assert (await running).finished
            with pytest.raises(EngineDeadError, match="shutting down"):
                await engine.submit(PROMPT, FIVE)
            endless.abort()
            assert await engine.drain(10)
            assert not engine.is_ready

    run(main())


def engine_processes() -> list[psutil.Process]:
    """Children of this process that are engines; other tests may have left workers that idle."""
    children = psutil.Process().children()
    return [c for c in children if "windlass.executor.engine_process" in c.cmdline()]


def test_shutting_down_ends_requests_with_an_error_and_leaves_no_process(
    config: EngineConfig,
) -> None:
    async def main() -> None:
        async with started(config, "slow") as engine:
            stream = await engine.submit(PROMPT, LONG)
            await anext(stream)
            pid = engine.engine_pid
            await engine.shutdown()
            with pytest.raises(EngineDeadError, match="shut down"):
                await last(stream)
            assert pid is not None
            assert not psutil.pid_exists(pid)
            with pytest.raises(EngineDeadError):
                engine.check_health()

    run(main())
    assert engine_processes() == []


def test_the_prefix_cache_is_reset(config: EngineConfig) -> None:
    async def main() -> None:
        async with started(config) as engine:
            prompt = [60] * 64
            await last(await engine.submit(prompt, FIVE))
            assert (await last(await engine.submit(prompt, FIVE))).num_cached_tokens > 0
            assert (
                await last(await engine.submit(prompt, FIVE, cache_salt="tenant"))
            ).num_cached_tokens == 0
            assert await engine.reset_prefix_cache()
            assert (await last(await engine.submit(prompt, FIVE))).num_cached_tokens == 0

    run(main())


def test_a_view_names_requests_as_their_clients_do(config: EngineConfig) -> None:
    async def main() -> None:
        async with started(config) as engine:
            endless = SamplingParams(n=2, max_tokens=200, ignore_eos=True, seed=0)
            stream = await engine.submit([60] * 40, endless, "mine")
            await anext(stream)
            views = await asyncio.gather(engine.view(), engine.view())
            for view in views:
                assert {seq.request_id for seq in view.sequences} == {"mine"}
                assert [seq.num_prompt_tokens for seq in view.sequences] == [40, 40]
            await stream.aclose()

    run(main())


def test_a_start_that_fails_says_why_and_leaves_no_process(tokenizer_folder: str) -> None:
    async def main() -> None:
        good = ModelConfig(model=tokenizer_folder)
        with pytest.raises(ModelError, match="lm_head"):
            await AsyncEngine.start(
                EngineConfig(model=good), runner_factory="engine_runners:broken"
            )
        with pytest.raises(ModelError, match="/nowhere"):
            await AsyncEngine.start(
                EngineConfig(model=ModelConfig(model=tokenizer_folder, tokenizer="/nowhere")),
                runner_factory="engine_runners:fast",
            )
        wrong = ModelConfig(model=tokenizer_folder, dtype="float99")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"model\.dtype"):
            await AsyncEngine.start(EngineConfig(model=wrong))

    run(main())
    assert engine_processes() == []


def test_nothing_listens_on_the_network(config: EngineConfig) -> None:
    async def main() -> None:
        async with started(config) as engine:
            processes = [psutil.Process(), psutil.Process(engine.engine_pid)]
            listening = [
                connection
                for process in processes
                for connection in process.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN
            ]
            assert listening == []

    run(main())
