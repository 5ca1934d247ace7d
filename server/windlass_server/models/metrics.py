"""The metrics of all models as one: a name stands once, with the samples of every model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector


class JoinedMetrics(Collector):
    """What several registries hold; their series differ in a label."""

    def __init__(self, registries: Iterable[CollectorRegistry]) -> None:
        self._registries = tuple(registries)

    def collect(self) -> Iterator[Metric]:
        """Yield each metric once."""
        joined: dict[str, Metric] = {}
        for registry in self._registries:
            for metric in registry.collect():
                if metric.name in joined:
                    joined[metric.name].samples += metric.samples
                else:
                    joined[metric.name] = metric
        yield from joined.values()
