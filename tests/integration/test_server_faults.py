"""A crowd of streaming clients, some of whom leave, and an engine process that is killed."""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from windlass import demo_model

NUM_CLIENTS = 200
ERRORS = {500, 503}


@dataclass
class Server:
    """A real `windlass serve` process."""

    process: subprocess.Popen[bytes]
    url: str

    def engine(self) -> psutil.Process:
        """The engine process, a child of the server."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(c for c in children if "windlass.executor.engine_process" in c.cmdline())

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        match = re.search(rf"^{re.escape(name)}\{{[^}}]*\}} (\S+)$", text, re.MULTILINE)
        assert match, f"{name} is not among the metrics"
        return float(match[1])

    def wait_until_ready(self, timeout: float = 120) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "the server ended"
            try:
                if httpx.get(f"{self.url}/ready", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise TimeoutError("the server did not become ready")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    log = (tmp_path / "server.log").open("wb")
    code = "import sys; from windlass.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "serve", str(demo_model.path()), "--port", "0"]
    command += ["--served-model-name", "demo", "--max-num-seqs", "64"]
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield Server(process, _address(tmp_path / "server.log", process))
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (tmp_path / "server.log").read_text()[-4000:]
        log.close()


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        match = re.search(r"http://[\d.]+:\d+", log.read_text())
        if match:
            return match[0]
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start:\n{log.read_text()}")


def _body(index: int) -> dict[str, object]:
    return {
        "model": "demo",
        "messages": [{"role": "user", "content": f"Tell me a story, number {index}."}],
        "max_tokens": 32,
        "ignore_eos": True,
        "seed": index,
        "stream": True,
    }


async def _client(
    url: str,
    client: httpx.AsyncClient,
    index: int,
    leaves_after: int | None,
    begun: asyncio.Event,
) -> str:
    """Stream one answer to its end; what became of it, in one word. `begun` is set by an event."""
    finished = errors = done = events = 0
    try:
        async with client.stream("POST", url, json=_body(index)) as response:
            if response.status_code != 200:
                await response.aread()
                assert response.status_code in ERRORS
                assert response.json()["error"]["message"]
                return "refused"
            async for line in response.aiter_lines():
                if not line.startswith("data: "):
                    continue
                assert not done, "an event after [DONE]"
                if line == "data: [DONE]":
                    done += 1
                    continue
                events += 1
                begun.set()
                if leaves_after is not None and events >= leaves_after:
                    return "left"
                event = json.loads(line.removeprefix("data: "))
                errors += "error" in event
                finished += sum(bool(c["finish_reason"]) for c in event.get("choices", []))
    except httpx.TransportError:
        return "cut"
    assert done == 1
    assert finished + errors == 1, "a stream ends once"
    return "finished" if finished else "failed"


async def _crowd(server: Server, *, kill: bool = False) -> Counter[str]:
    """Ask for many answers at once; `kill` ends the engine when the first one has begun."""
    random.seed(5)
    begun = asyncio.Event()
    limits = httpx.Limits(max_connections=NUM_CLIENTS + 10)
    async with httpx.AsyncClient(limits=limits, timeout=120) as client:
        url = f"{server.url}/v1/chat/completions"
        tasks = [
            asyncio.create_task(
                _client(url, client, i, random.randint(1, 20) if i % 4 == 0 else None, begun)
            )
            for i in range(NUM_CLIENTS)
        ]
        if kill:
            await begun.wait()
            os.kill(server.engine().pid, signal.SIGKILL)
        return Counter(await asyncio.gather(*tasks))


def _wait_for_idle(server: Server) -> None:
    """Nothing runs, nothing waits, every block is free."""
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
    deadline = time.monotonic() + 30
    while any(server.metric(name) for name in names):
        assert time.monotonic() < deadline, {name: server.metric(name) for name in names}
        time.sleep(0.2)


def test_a_crowd_with_leavers_is_served_to_the_last(server: Server) -> None:
    server.wait_until_ready()
    ends = asyncio.run(_crowd(server))
    assert ends["left"] > 0
    assert ends == {"finished": NUM_CLIENTS - ends["left"], "left": ends["left"]}
    _wait_for_idle(server)


def test_every_request_ends_once_when_the_engine_is_killed(server: Server) -> None:
    server.wait_until_ready()
    killed = server.engine().pid
    ends = asyncio.run(_crowd(server, kill=True))
    assert sum(ends.values()) == NUM_CLIENTS
    assert ends["cut"] == 0
    assert ends["failed"] + ends["refused"] > 0, "the engine died too late to be noticed"
    assert not psutil.pid_exists(killed)
    server.wait_until_ready()
    assert server.engine().pid != killed
    _wait_for_idle(server)
    ends = asyncio.run(_crowd(server))
    assert ends["finished"] == NUM_CLIENTS - ends["left"]
    _wait_for_idle(server)
