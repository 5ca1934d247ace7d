"""Front ends that were attached to the engine process of another one."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from engine_listener import Listener
from engine_runners import EXIT, HANG, answer

from windlass.config import EngineConfig, ModelConfig
from windlass.engine.attached import AttachedClient
from windlass.engine.client import EngineClient
from windlass.engine.ipc import Outputs, RequestRejected
from windlass.engine.link import State
from windlass.engine.restart import RestartPolicy
from windlass.errors import EngineDeadError
from windlass.request import Request, SamplingParams

CONFIG = EngineConfig(model=ModelConfig(model="counting"), step_timeout=0.5)
IMPATIENT = RestartPolicy(first_delay=0.01, max_delay=0.02, max_deaths=1)

pytestmark = pytest.mark.usefixtures("engine_runners")


class FrontEnd(Listener):
    """A listener that asks through a client of its own, attached by `owner`."""

    def __init__(self, owner: Owner | None = None, number: int = 0) -> None:
        super().__init__()
        self.hangs: list[str] = []
        self._owner, self._number = owner, number
        self.client = AttachedClient(CONFIG, self, self)

    def attach(self, endpoint: str) -> None:
        if self._owner is not None:
            self._owner.client.attach(endpoint, self._number)

    def report_hang(self, cause: str) -> None:
        self.hangs.append(cause)
        assert self._owner is not None
        self._owner.tasks.append(asyncio.create_task(self._owner.client.replace_hung(cause)))

    def send(self, prompt: list[int], max_tokens: int = 5) -> str:
        name = f"{self._number}:{len(self.tokens)}"
        sampling = SamplingParams(max_tokens=max_tokens, seed=0, ignore_eos=True)
        request = Request(request_id=name, prompt_token_ids=prompt, sampling=sampling)
        self.client.add_requests([request])
        self.unfinished.add(name)
        self.tokens[name] = []
        return name

    async def ask(self, prompt: list[int]) -> list[int]:
        name = self.send(prompt)
        await until(lambda: not self.unfinished)
        return self.tokens[name]


class Owner:
    """Owns the engine and asks nothing itself."""

    has_unfinished = False

    def __init__(self, runner: str) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.client = EngineClient(
            CONFIG,
            self,
            runner_factory=f"engine_runners:{runner}",
            policy=IMPATIENT,
            on_ready=self._on_ready,
        )
        self.front_ends = [FrontEnd(self, 1), FrontEnd(self, 2)]

    def _on_ready(self) -> None:
        assert self.client.pid is not None
        for front_end in self.front_ends:
            front_end.client.engine_is_up(self.client.pid, self.client.restarts)

    def on_outputs(self, message: Outputs) -> None:
        assert not message.outputs

    def on_rejected(self, message: RequestRejected) -> None:
        raise AssertionError(message)

    def on_death(self, error: EngineDeadError) -> None:
        for front_end in self.front_ends:
            front_end.client.engine_is_down(str(error), error.retry_after)


@asynccontextmanager
async def serving(runner: str = "fast") -> AsyncIterator[tuple[Owner, FrontEnd, FrontEnd]]:
    owner = Owner(runner)
    await owner.client.start()
    for front_end in owner.front_ends:
        info = await front_end.client.start()
        assert info.architecture == "Counting"
    first, second = owner.front_ends
    try:
        yield owner, first, second
    finally:
        await asyncio.gather(*owner.tasks)
        for front_end in owner.front_ends:
            await front_end.client.close()
        await owner.client.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def test_two_front_ends_share_an_engine() -> None:
    async def main() -> None:
        async with serving() as (owner, first, second):
            assert await asyncio.gather(first.ask([60]), second.ask([70])) == [
                answer([60], 5),
                answer([70], 5),
            ]
            view = await second.client.view()
            assert view.stats.generation_tokens == 10
            assert await first.client.reset_prefix_cache()
            assert first.client.pid == second.client.pid == owner.client.pid

    run(main)


def test_all_front_ends_serve_again_after_the_engine_died() -> None:
    async def main() -> None:
        async with serving("slow") as (owner, first, second):
            first.send([60], max_tokens=1_000)
            assert owner.client.pid is not None
            os.kill(owner.client.pid, signal.SIGKILL)
            await until(lambda: bool(first.deaths and second.deaths))
            assert first.client.state is State.RESTARTING
            with pytest.raises(EngineDeadError, match="SIGKILL") as caught:
                first.send([60])
            assert caught.value.retry_after is not None

            await until(lambda: all(f.client.state is State.READY for f in (first, second)))
            assert await first.ask([60]) == answer([60], 5)
            assert await second.ask([70]) == answer([70], 5)
            assert first.client.restarts == second.client.restarts == 1

    run(main)


def test_a_hang_that_one_front_end_sees_is_ended_by_the_owner() -> None:
    async def main() -> None:
        async with serving() as (_, first, second):
            await first.ask([60])
            first.send([60, HANG])
            await until(lambda: bool(second.deaths))
            assert first.hangs == ["no step ended for 0.5 s"]
            assert second.hangs == []
            assert "no step ended for 0.5 s" in str(first.deaths[0])
            await until(lambda: second.client.state is State.READY)
            assert await second.ask([70]) == answer([70], 5)

    run(main)


def test_front_ends_learn_that_the_engine_stays_down() -> None:
    async def main() -> None:
        async with serving() as (_, first, second):
            for _ in range(2):
                await until(lambda: first.client.state is State.READY)
                first.send([60, EXIT])
                await until(lambda: not first.unfinished)
            for front_end in (first, second):
                assert front_end.client.state is State.DEAD_FOREVER
                assert front_end.deaths[-1].retry_after is None
                with pytest.raises(EngineDeadError, match="dead for good"):
                    front_end.client.check_ready()

    run(main)


def test_who_waits_for_a_first_engine_learns_that_there_is_none() -> None:
    async def main() -> None:
        front_end = FrontEnd()
        with pytest.raises(EngineDeadError, match="starting"):
            front_end.client.check_ready()
        starting = asyncio.create_task(front_end.client.start())
        await asyncio.sleep(0)
        front_end.client.engine_is_down("there is no engine", None)
        with pytest.raises(EngineDeadError, match="there is no engine"):
            await starting
        await front_end.client.close()
        front_end.client.engine_is_up(1, 0)
        assert front_end.client.state is State.CLOSED

    run(main)
