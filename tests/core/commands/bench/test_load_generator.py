"""When requests are sent, and what is recorded of them."""

from __future__ import annotations

import asyncio
import math
import statistics
from itertools import pairwise

import pytest
from scripted_server import ScriptedServer

from windlass.commands.bench.load_generator import (
    Target,
    arrival_times,
    first_model,
    send_all,
    wait_until_ready,
)
from windlass.commands.bench.random_prompts import RandomPrompt
from windlass.commands.bench.request_record import RequestRecord
from windlass.errors import EngineError

PROMPTS = [RandomPrompt([1, 2, 3, 4], output_len=3)] * 5


def target(server: ScriptedServer) -> Target:
    return Target(base_url=server.url, endpoint="/v1/completions", model="m", body={"seed": 7})


def test_an_infinite_rate_sends_all_at_once() -> None:
    assert arrival_times(3, math.inf) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("burstiness", [0.3, 1.0, 20.0])
def test_the_offered_rate_is_exact(burstiness: float) -> None:
    times = arrival_times(101, 5.0, burstiness, seed=3)
    assert times[0] == 0
    assert times == sorted(times)
    assert times[-1] == pytest.approx(100 / 5.0)


def test_burstiness_is_the_shape_of_the_gaps() -> None:
    def variation(burstiness: float) -> float:
        times = arrival_times(5001, 1.0, burstiness)
        gaps = [later - earlier for earlier, later in pairwise(times)]
        return statistics.pstdev(gaps) / statistics.mean(gaps)

    # The coefficient of variation of a gamma distribution of shape k is 1 / sqrt(k).
    assert variation(1.0) == pytest.approx(1.0, rel=0.1)
    assert variation(16.0) == pytest.approx(0.25, rel=0.1)


def test_what_the_server_counts_is_recorded(server: ScriptedServer) -> None:
    done: list[RequestRecord] = []
    records, duration = asyncio.run(
        send_all(target(server), PROMPTS, [0.0] * 5, on_done=done.append)
    )
    assert len(records) == len(done) == len(server.bodies) == 5
    for record in records:
        assert record.error is None
        assert record.prompt_tokens == 4
        assert record.output_tokens == 3
        assert len(record.arrivals) >= 1
        assert 0 < record.ttft <= record.latency <= duration
    assert server.bodies[0] == {
        "model": "m",
        "max_tokens": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": 7,
        "prompt": [1, 2, 3, 4],
    }


def test_a_chat_endpoint_gets_text(server: ScriptedServer) -> None:
    chat = Target(base_url=server.url, endpoint="/v1/chat/completions", model="m", decode=str)
    records, _ = asyncio.run(send_all(chat, PROMPTS[:1], [0.0]))
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "[1, 2, 3, 4]"}]
    assert records[0].output_tokens == 3


def test_no_more_requests_run_than_are_allowed(server: ScriptedServer) -> None:
    records, _ = asyncio.run(send_all(target(server), PROMPTS, [0.0] * 5, max_concurrency=1))
    for earlier, later in pairwise(records):
        assert earlier.end <= later.start


def test_a_refusal_is_recorded_and_the_others_go_on(server: ScriptedServer) -> None:
    server.refusal = "too long"
    records, _ = asyncio.run(send_all(target(server), PROMPTS, [0.0] * 5))
    assert {record.error for record in records} == {
        "RequestError: the server answered 400: too long"
    }


def test_a_stream_that_breaks_off_is_a_failure(server: ScriptedServer) -> None:
    server.break_off = True
    records, _ = asyncio.run(send_all(target(server), PROMPTS[:1], [0.0]))
    assert "the stream ended before its end was announced" in str(records[0].error)


def test_the_first_model_and_its_files_are_found(server: ScriptedServer) -> None:
    assert asyncio.run(first_model(target(server))) == ("windlass-demo", "windlass-demo")


def test_a_server_that_never_comes_is_named() -> None:
    nowhere = Target(base_url="http://127.0.0.1:1", endpoint="/", model="m")
    with pytest.raises(EngineError, match=r"no server is ready at http://127.0.0.1:1"):
        asyncio.run(wait_until_ready(nowhere, 0.0))
