"""A worker process: Windlass behind the protocol, and what happens when a worker fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from peers.environments import variables_of
from peers.protocol import Batch, Settings
from peers.worker import Worker, WorkerError
from windlass import demo_model

SETTINGS = Settings(
    model=str(demo_model.path()),
    precision="bf16",
    threads=1,
    cpus=sorted(os.sched_getaffinity(0))[:1],
    max_model_len=64,
    max_num_seqs=4,
    kv_tokens=1024,
    kv_bytes=0,
)
TIMEOUT = 280
ECHO = """
from peers.protocol import serve
serve({"echo": lambda request: request, "fail": lambda request: 1 / 0, "end": lambda r: exit(3)})
"""


def worker_of(arguments: list[str], folder: Path) -> Worker:
    variables = variables_of("windlass", Path(sys.executable), 1, SETTINGS.cpus, folder)
    return Worker([sys.executable, "-P", *arguments], variables, folder / "log", "windlass")


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Worker]:
    worker = worker_of(["-c", ECHO], tmp_path)
    yield worker
    worker.close()


def test_windlass_answers_with_the_time_of_every_request(tmp_path: Path) -> None:
    worker = worker_of(["-m", "peers.engines.windlass"], tmp_path)
    try:
        worker.ask("prepare", asdict(SETTINGS), TIMEOUT)
        loaded = worker.ask("load", asdict(SETTINGS), TIMEOUT)
        answer = worker.ask("run", asdict(Batch([[5, 6, 7], [8, 9]], [4, 1])), TIMEOUT)
    finally:
        worker.close()
    assert loaded["load_seconds"] > 0
    assert answer["counts"] == [4, 1]
    assert all(0 < first <= end for first, end in zip(answer["first"], answer["end"], strict=True))


def test_a_worker_that_was_stopped_goes_on(echo: Worker) -> None:
    echo.pause()
    echo.resume()
    assert echo.ask("echo", {"value": 1}, TIMEOUT) == {"value": 1}
    assert echo.idle_use == 0


def test_an_error_is_told_and_the_worker_lives(echo: Worker) -> None:
    with pytest.raises(WorkerError, match="ZeroDivisionError"):
        echo.ask("fail", {}, TIMEOUT)
    assert echo.ask("echo", {}, TIMEOUT) == {}


def test_the_end_of_a_worker_is_told_with_its_log(echo: Worker) -> None:
    with pytest.raises(WorkerError, match=r"ended with code 3; its log is .*log"):
        echo.ask("end", {}, TIMEOUT)
    assert not echo.alive


def test_a_worker_that_does_not_answer_is_ended(echo: Worker) -> None:
    echo.pause()
    with pytest.raises(WorkerError, match="no answer"):
        echo.ask("echo", {}, 0.05)
    assert not echo.alive
