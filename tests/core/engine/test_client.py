"""The client against real engine processes: start, death, hang, restart, nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_listener import Listener
from engine_runners import EXIT, HANG, answer

from windlass.config import EngineConfig, ModelConfig
from windlass.engine.client import EngineClient
from windlass.engine.link import State
from windlass.engine.restart import RestartPolicy
from windlass.errors import EngineDeadError, EngineError, ModelError
from windlass.request import Request, SamplingParams

CONFIG = EngineConfig(model=ModelConfig(model="counting"))
IMPATIENT = RestartPolicy(first_delay=0.01, max_delay=0.02, max_deaths=2)

pytestmark = pytest.mark.usefixtures("engine_runners")


class Session:
    """A client and its listener."""

    def __init__(self, runner: str = "fast", config: EngineConfig = CONFIG) -> None:
        self.listener = Listener()
        self.progress: list[tuple[str, float]] = []
        self.client = EngineClient(
            config,
            self.listener,
            runner_factory=f"engine_runners:{runner}",
            policy=IMPATIENT,
            progress=lambda what, share: self.progress.append((what, share)),
        )

    def send(self, request_id: str, prompt: list[int], max_tokens: int = 5) -> None:
        sampling = SamplingParams(max_tokens=max_tokens, seed=0)
        request = Request(request_id=request_id, prompt_token_ids=prompt, sampling=sampling)
        self.client.add_requests([request])
        self.listener.unfinished.add(request_id)

    async def ask(self, prompt: list[int]) -> list[int]:
        self.send("asked", prompt)
        await until(lambda: not self.listener.unfinished)
        return self.listener.tokens.pop("asked", [])

    @property
    def pid(self) -> int:
        assert self.client.pid is not None
        return self.client.pid


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def is_alive(pid: int) -> bool:
    """Whether a process runs (one that has ended and waits to be noticed does not)."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.fixture(autouse=True)
def no_socket_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield
    assert list(tmp_path.iterdir()) == []


def test_an_engine_starts_answers_and_ends(tmp_path: Path) -> None:
    async def main() -> None:
        session = Session()
        info = await session.client.start()
        assert info.architecture == "Counting"
        assert session.progress[-1] == ("counting", 1.0)
        assert list(tmp_path.iterdir()) == []
        assert await session.ask([60]) == answer([60], 5)
        assert await session.client.reset_prefix_cache()

        pid = session.pid
        await session.client.close()
        await session.client.close()
        assert not is_alive(pid)
        assert session.client.state is State.CLOSED
        with pytest.raises(EngineDeadError, match="shut down"):
            session.send("late", [60])
        assert session.listener.deaths == []

    run(main())


def test_the_engine_is_inspected_between_steps_and_callers_share_an_answer() -> None:
    async def main() -> None:
        session = Session()
        with pytest.raises(EngineDeadError):
            await session.client.view()
        await session.client.start()
        await session.ask([60] * 20)
        first, second = await asyncio.gather(session.client.view(), session.client.view())
        assert first is second
        assert first.num_cached_blocks == 1
        assert await session.client.view() is not first
        await session.client.close()

    run(main())


def test_who_inspects_an_engine_that_dies_is_told() -> None:
    async def main() -> None:
        session = Session()
        await session.client.start()
        os.kill(session.pid, signal.SIGSTOP)
        looking = asyncio.create_task(session.client.view())
        await asyncio.sleep(0)
        os.kill(session.pid, signal.SIGKILL)
        with pytest.raises(EngineDeadError):
            await looking
        await session.client.close()

    run(main())


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        ("tensor", ModelError, "model.safetensors has no tensor 'lm_head.weight'"),
        ("bug", EngineError, "ZeroDivisionError: counting failed"),
        ("exit", EngineError, "the engine process ended while it started (exit code 9)"),
    ],
)
def test_a_failed_start_says_why_in_one_line(
    model: str, kind: type[Exception], message: str
) -> None:
    async def main() -> None:
        session = Session("broken", EngineConfig(model=ModelConfig(model=model)))
        with pytest.raises(kind) as caught:
            await session.client.start()
        assert str(caught.value) == message
        assert session.client.pid is None

    run(main())


def test_a_runner_factory_that_does_not_exist_is_named() -> None:
    async def main() -> None:
        with pytest.raises(Exception, match="engine_runners:nothing"):
            await Session("nothing").client.start()

    run(main())


def test_a_start_that_is_cancelled_leaves_no_process() -> None:
    async def main() -> None:
        session = Session("broken", EngineConfig(model=ModelConfig(model="wait")))
        starting = asyncio.create_task(session.client.start())
        await until(lambda: bool(session.progress))
        pid = session.pid
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert not is_alive(pid)

    run(main())


def test_a_killed_engine_is_reported_once_and_replaced() -> None:
    async def main() -> None:
        session = Session("slow")
        await session.client.start()
        session.send("lost", [60], max_tokens=1_000)
        await until(lambda: bool(session.listener.tokens))
        dead = session.pid
        os.kill(dead, signal.SIGKILL)
        await until(lambda: bool(session.listener.deaths))
        assert session.client.state is State.RESTARTING
        with pytest.raises(EngineDeadError, match="restarting") as caught:
            session.send("too early", [60])
        assert caught.value.retry_after is not None

        await until(lambda: session.client.state is State.READY)
        assert await session.ask([60]) == answer([60], 5)
        assert [str(error) for error in session.listener.deaths] == [
            "the engine process died (killed by SIGKILL): it is restarting, try again soon"
        ]
        assert session.client.restarts == 1
        assert session.pid != dead
        assert not is_alive(dead)
        await session.client.close()

    run(main())


def test_an_engine_that_dies_too_often_stays_down() -> None:
    async def main() -> None:
        session = Session()
        await session.client.start()
        for _ in range(3):
            await until(lambda: session.client.state is State.READY)
            session.send("deadly", [60, EXIT])
            await until(lambda: not session.listener.unfinished)
        assert len(session.listener.deaths) == 3
        assert session.client.state is State.DEAD_FOREVER
        assert session.listener.deaths[-1].retry_after is None
        with pytest.raises(EngineDeadError, match="dead for good"):
            session.client.check_ready()
        await session.client.close()

    run(main())


def test_restart_delays_double_up_to_a_bound() -> None:
    policy = RestartPolicy()

    assert [policy.delay(deaths) for deaths in (1, 2, 3, 6)] == [0.5, 1.0, 2.0, 10.0]


def test_a_step_that_never_ends_is_killed_and_the_engine_replaced() -> None:
    async def main() -> None:
        session = Session(config=EngineConfig(model=CONFIG.model, step_timeout=0.5))
        await session.client.start()
        assert await session.ask([60]) == answer([60], 5)
        assert not session.client.hung
        session.send("hangs", [60, HANG])
        await until(lambda: session.client.hung)
        await until(lambda: bool(session.listener.deaths))
        assert "no step ended for 0.5 s" in str(session.listener.deaths[0])
        await until(lambda: session.client.state is State.READY)
        assert await session.ask([60]) == answer([60], 5)
        await session.client.close()

    run(main())


def test_an_idle_engine_is_not_taken_for_a_hung_one() -> None:
    async def main() -> None:
        session = Session(config=EngineConfig(model=CONFIG.model, step_timeout=0.5))
        await session.client.start()
        await session.ask([60])
        await asyncio.sleep(0.7)
        assert await session.ask([60]) == answer([60], 5)
        # Nor does a front end that was busy itself see a hang where there was none.
        session.send("slow to be read", [60])
        time.sleep(0.7)
        await until(lambda: not session.listener.unfinished)
        assert session.listener.deaths == []
        await session.client.close()

    run(main())


def test_an_engine_that_does_not_react_is_killed_on_close() -> None:
    async def main() -> None:
        session = Session()
        await session.client.start()
        pid = session.pid
        os.kill(pid, signal.SIGSTOP)
        await session.client.close(grace=0.05)
        assert not is_alive(pid)

    run(main())


def test_a_terminated_engine_exits_and_an_interrupted_one_goes_on() -> None:
    async def main() -> None:
        session = Session()
        await session.client.start()
        os.kill(session.pid, signal.SIGINT)
        assert await session.ask([60]) == answer([60], 5)
        os.kill(session.pid, signal.SIGTERM)
        await until(lambda: bool(session.listener.deaths))
        assert "exit code 0" in str(session.listener.deaths[0])
        await session.client.close()

    run(main())


FRONT_END = """
    import asyncio, sys
    from windlass.config import EngineConfig, ModelConfig
    from windlass.engine.client import EngineClient

    class Listener:
        has_unfinished = False
        def on_outputs(self, message): pass

    async def main():
        config = EngineConfig(model=ModelConfig(model="counting"))
        client = EngineClient(config, Listener(), runner_factory="engine_runners:fast")
        await client.start()
        print(client.pid, flush=True)
        await asyncio.sleep(60)

    asyncio.run(main())
"""


def test_an_engine_whose_front_end_was_killed_exits() -> None:
    front_end = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(FRONT_END)], stdout=subprocess.PIPE, text=True
    )
    assert front_end.stdout is not None
    pid = int(front_end.stdout.readline())
    assert is_alive(pid)
    front_end.kill()
    front_end.wait()
    front_end.stdout.close()

    deadline = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(pid)
