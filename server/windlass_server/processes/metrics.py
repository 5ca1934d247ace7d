"""The metrics of all API processes as one: what each counted is summed, the engine's stand once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from copy import copy

import httpx
from prometheus_client import Counter
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.types import Scope

from windlass_server.metrics import ServerMetrics
from windlass_server.processes.peers import Peers, is_from_peer, leave_uncounted

_PATIENCE = 1.0
"""Seconds that another process has to answer."""

_WAITING = "vllm:num_requests_waiting"
"""Of the engine, but for the calls that a process holds back in front of it."""

_Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Summed(Collector):
    """Metrics that several processes counted; samples with equal names and labels are added up."""

    def __init__(self, *counted: list[Metric]) -> None:
        self._counted = counted

    def collect(self) -> Iterator[Metric]:
        """Yield each metric once."""
        metrics: dict[str, Metric] = {}
        sums: dict[str, _Samples] = {}
        for process in self._counted:
            for metric in process:
                metrics.setdefault(metric.name, metric)
                samples = sums.setdefault(metric.name, {})
                for sample in metric.samples:
                    key = sample.name, tuple(sorted(sample.labels.items()))
                    samples[key] = samples.get(key, 0.0) + sample.value
        for name, metric in metrics.items():
            summed = Metric(name, metric.documentation, metric.type)
            for (sample_name, labels), value in sums[name].items():
                summed.add_sample(sample_name, dict(labels), value)
            yield summed


class PeerMetrics:
    """What all API processes counted, as one of them answers.

    Of one that does not answer in time its last answer counts again: a sum that falls and rises
    would look like a restart, and then like a burst. How often that happened is counted too.
    """

    def __init__(self, peers: Peers, metrics: ServerMetrics) -> None:
        self._peers = peers
        self._metrics = metrics
        self._last: dict[int, list[Metric]] = {}
        self._missed = Counter(
            "windlass:unanswered_peers",
            "API processes that did not say in time what they counted.",
            registry=metrics.registry,
        )

    async def collector(self, scope: Scope) -> Collector:
        """Return the metrics to answer with: to another process only what this one counted."""
        engine, counted = self._split()
        if is_from_peer(scope):
            leave_uncounted(scope)
            return Summed([*counted, *self._waiting_here(engine)])
        await asyncio.gather(*(self._ask(index, scope) for index in self._peers.others))
        return Summed(engine, counted, *self._last.values())

    def _split(self) -> tuple[list[Metric], list[Metric]]:
        """Return the engine's own metrics, which are the same everywhere, and the others."""
        names = self._metrics.engine_names
        metrics = list(self._metrics.registry.collect())
        engine = [metric for metric in metrics if metric.name in names]
        return engine, [metric for metric in metrics if metric.name not in names]

    def _waiting_here(self, engine: list[Metric]) -> Iterator[Metric]:
        """Yield the calls that wait in this process for their turn, which no other one knows of."""
        for metric in engine:
            if metric.name == _WAITING:
                here = copy(metric)
                value = self._metrics.calls_in_front()
                here.samples = [sample._replace(value=value) for sample in metric.samples]
                yield here

    async def _ask(self, index: int, scope: Scope) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                answer = await self._peers.ask(index, scope)
        except (TimeoutError, httpx.TransportError):
            self._missed.inc()
            return
        self._last[index] = list(text_string_to_metric_families(answer))
