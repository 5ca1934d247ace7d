"""What several processes counted, added up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from windlass_server.metrics import ServerMetrics
from windlass_server.processes.control import Place
from windlass_server.processes.metrics import PeerMetrics, Summed
from windlass_server.processes.peers import Peers, mark_from_peer

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine


def counted(requests: dict[str, int], seconds: list[float], running: int) -> CollectorRegistry:
    registry = CollectorRegistry()
    counter = Counter("requests", "Requests.", ["status"], registry=registry)
    for status, count in requests.items():
        counter.labels(status).inc(count)
    histogram = Histogram("seconds", "Seconds.", buckets=(1.0, 2.0), registry=registry)
    for value in seconds:
        histogram.observe(value)
    Gauge("running", "Running.", registry=registry).set(running)
    return registry


def read(registry: CollectorRegistry) -> list[Metric]:
    return list(text_string_to_metric_families(generate_latest(registry).decode()))


def test_processes_are_summed_as_one_that_counted_everything() -> None:
    first = counted({"200": 3, "503": 1}, [0.5, 1.5], 2)
    second = counted({"200": 4, "404": 2}, [1.7, 9.0], 3)
    summed = CollectorRegistry(auto_describe=False)
    summed.register(Summed(read(first), read(second)))
    whole = counted({"200": 7, "503": 1, "404": 2}, [0.5, 1.5, 1.7, 9.0], 5)

    def samples(registry: CollectorRegistry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for metric in read(registry)
            for sample in metric.samples
            if not sample.name.endswith("_created")
        }

    assert samples(summed) == samples(whole)
    assert {metric.name: metric.type for metric in read(summed)} == {
        "requests": "counter",
        "seconds": "histogram",
        "running": "gauge",
    } | {m.name: m.type for m in read(summed) if m.name.endswith("_created")}


@pytest.mark.anyio
async def test_a_process_tells_others_what_only_it_knows(engine: FakeEngine) -> None:
    metrics = ServerMetrics("m")
    metrics.read_from(engine)
    metrics.calls_in_front = lambda: 3
    metrics.prompt_tokens.inc(5)
    alone = PeerMetrics(Peers(Place(0, 1, "/nowhere", 0)), metrics)
    engine.stats().num_waiting = 2

    async def values(scope: dict[str, Any]) -> dict[str, float]:
        found = (await alone.collector(scope)).collect()
        return {sample.name: sample.value for metric in found for sample in metric.samples}

    asked_by_peer: dict[str, Any] = {}
    mark_from_peer(asked_by_peer)
    told = await values(asked_by_peer)
    assert told["vllm:prompt_tokens_total"] == 5
    assert told["vllm:num_requests_waiting"] == 3
    assert "windlass:engine_steps_total" not in told
    answered = await values({"state": {}})
    assert answered["vllm:prompt_tokens_total"] == 5
    assert answered["vllm:num_requests_waiting"] == 5
    assert answered["windlass:engine_steps_total"] == 0
