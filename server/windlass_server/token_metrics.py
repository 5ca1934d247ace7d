"""What is counted for every token: plain numbers, made into metrics when they are asked for.

A counter and a histogram of prometheus_client take a lock each, at every token of every stream.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class TokenMetrics(Collector):
    """Output tokens, and the seconds between two outputs of a request; of one event loop."""

    def __init__(
        self, labels: tuple[str, ...], label_values: tuple[str, ...], buckets: tuple[float, ...]
    ) -> None:
        self._labels, self._label_values = labels, label_values
        self._buckets = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._seconds = 0.0
        self.tokens = 0

    def waited(self, seconds: float) -> None:
        """Count an output that came so long after the one before it."""
        self._counts[bisect_left(self._buckets, seconds)] += 1
        self._seconds += seconds

    def collect(self) -> Iterator[Metric]:
        """Yield both metrics."""
        counter = CounterMetricFamily(
            "vllm:generation_tokens", "Output tokens generated.", labels=self._labels
        )
        counter.add_metric(self._label_values, self.tokens)
        yield counter
        histogram = HistogramMetricFamily(
            "vllm:inter_token_latency_seconds",
            "Between two outputs of a request.",
            labels=self._labels,
        )
        bounds = (*map(str, self._buckets), "+Inf")
        sums = itertools.accumulate(self._counts)
        histogram.add_metric(
            self._label_values, list(zip(bounds, sums, strict=True)), self._seconds
        )
        yield histogram
