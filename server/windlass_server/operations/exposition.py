"""All metrics of a server as Prometheus reads them, under the names that its operator chose.

Metrics that vLLM has too are kept under vLLM's names. Other names are made when somebody asks, so
that they cost nothing while requests are served.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

VLLM, OWN = "vllm:", "windlass:"


class Exposition:
    """Writes metrics with those of this process, and under the names that were chosen."""

    def __init__(self, names: Literal["vllm", "windlass", "both"]) -> None:
        self._names = names
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)

    def text(self, metrics: Collector, *, process: bool = True, renamed: bool = True) -> bytes:
        """Return metrics in Prometheus' text format.

        `process` adds those of this process. Without `renamed` all names are those that
        `ServerMetrics` gives.
        """
        registry = CollectorRegistry(auto_describe=False)
        other_names = renamed and self._names != "vllm"
        registry.register(_Renamed(metrics, self._names) if other_names else metrics)
        return generate_latest(registry) + (generate_latest(self._process) if process else b"")


class _Renamed(Collector):
    """Metrics of vLLM's names under our own prefix, or under both."""

    def __init__(self, metrics: Collector, names: str) -> None:
        self._metrics = metrics
        self._keeps = names == "both"

    def collect(self) -> Iterator[Metric]:
        """Yield each metric once per name."""
        for metric in self._metrics.collect():
            if not metric.name.startswith(VLLM):
                yield metric
                continue
            if self._keeps:
                yield metric
            renamed = copy(metric)
            renamed.name = OWN + metric.name.removeprefix(VLLM)
            renamed.samples = [
                sample._replace(name=OWN + sample.name.removeprefix(VLLM))
                for sample in metric.samples
            ]
            yield renamed
