"""Prometheus metrics: vLLM's names where it has one, `windlass:` for the rest.

No label value comes from a client, so the number of series is fixed. `docs/metrics.md` lists all.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Summary,
    disable_created_metrics,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from windlass.engine import step_sizes
from windlass.pooling import PoolingOutput
from windlass.request import RequestMetrics, RequestOutput, SamplingParams
from windlass_server.access.deadline import KINDS
from windlass_server.access.rate_limits import LIMITS
from windlass_server.engine import Engine
from windlass_server.token_metrics import TokenMetrics

LABELS = ("model_name", "engine")
FINISH_REASONS = ("stop", "length", "abort", "error")

_FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_PER_TOKEN = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_REQUEST = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_TOKENS = tuple(float(step * 10**power) for power in range(6) for step in (1, 2, 5))
_CHOICES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_PREEMPTIONS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0)
_HTTP_SECONDS = (0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class ServerMetrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, model_name: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._label_values = (model_name, "0")
        self._engine_collector: EngineCollector | None = None
        self.calls_in_front: Callable[[], int] = lambda: 0
        self._define_counters()
        self._define_histograms()
        self.output_tokens = TokenMetrics(LABELS, self._label_values, _PER_TOKEN)
        self.registry.register(self.output_tokens)

    def _define_counters(self) -> None:
        counter = self._counter
        self.prompt_tokens = counter("vllm:prompt_tokens", "Prompt tokens of answered requests.")
        self.cached_tokens = counter(
            "vllm:prompt_tokens_cached", "Prompt tokens found in the prefix cache."
        )
        self.queue_rejections = counter(
            "windlass:queue_rejections", "Requests refused because the queue was full."
        )
        self.client_disconnects = counter(
            "windlass:client_disconnects", "Requests aborted because the client went away."
        )
        limited = Counter(
            "windlass:rate_limited",
            "Requests refused because a key was over a limit, by limit.",
            (*LABELS, "limit"),
            registry=self.registry,
        )
        self.rate_limited = {name: limited.labels(*self._label_values, name) for name in LIMITS}
        passed = Counter(
            "windlass:deadlines_passed",
            "Requests that took too long, by deadline.",
            (*LABELS, "deadline"),
            registry=self.registry,
        )
        self.deadlines_passed = {k: passed.labels(*self._label_values, k) for k in KINDS}
        lines = Counter(
            "windlass:batch_lines",
            "Lines of batches whose result was stored, by result.",
            (*LABELS, "result"),
            registry=self.registry,
        )
        self.batch_lines = {
            r: lines.labels(*self._label_values, r) for r in ("completed", "failed")
        }
        finished = Counter(
            "vllm:request_success",
            "Answers that ended, by reason.",
            (*LABELS, "finished_reason"),
            registry=self.registry,
        )
        self.finished = {r: finished.labels(*self._label_values, r) for r in FINISH_REASONS}
        self.http_requests = Counter(
            "http_requests",
            "HTTP requests, by route, method and status.",
            ("handler", "method", "status"),
            registry=self.registry,
        )

    def _define_histograms(self) -> None:
        histogram = self._histogram
        self.first_token = histogram(
            "vllm:time_to_first_token_seconds", "From arrival to the first token.", _FIRST_TOKEN
        )
        self.per_token = histogram(
            "vllm:request_time_per_output_token_seconds",
            "Mean time per output token after the first, by request.",
            _PER_TOKEN,
        )
        self.latency = histogram(
            "vllm:e2e_request_latency_seconds", "From arrival to the last token.", _REQUEST
        )
        self.queue_time = histogram(
            "vllm:request_queue_time_seconds", "From arrival to the first step.", _REQUEST
        )
        self.prefill_time = histogram(
            "vllm:request_prefill_time_seconds", "From the first step to the first token.", _REQUEST
        )
        self.decode_time = histogram(
            "vllm:request_decode_time_seconds", "From the first token to the last.", _REQUEST
        )
        self.inference_time = histogram(
            "vllm:request_inference_time_seconds",
            "From the first step to the last token.",
            _REQUEST,
        )
        self.preemptions = histogram(
            "vllm:request_num_preemptions", "Preemptions by request.", _PREEMPTIONS
        )
        self.computed_tokens = histogram(
            "vllm:request_prefill_kv_computed_tokens",
            "Prompt tokens by request that were not in the prefix cache.",
            _TOKENS,
        )
        self.request_prompt_tokens = histogram(
            "vllm:request_prompt_tokens", "Prompt tokens by request.", _TOKENS
        )
        self.request_generation_tokens = histogram(
            "vllm:request_generation_tokens", "Output tokens by request.", _TOKENS
        )
        self.request_n = histogram("vllm:request_params_n", "Choices asked for.", _CHOICES)
        self.request_max_tokens = histogram(
            "vllm:request_params_max_tokens", "max_tokens where the client set it.", _TOKENS
        )
        self.http_request_size = Summary(
            "http_request_size_bytes", "Bodies of requests.", ("handler",), registry=self.registry
        )
        self.http_response_size = Summary(
            "http_response_size_bytes", "Bodies of answers.", ("handler",), registry=self.registry
        )
        self.http_duration = Histogram(
            "http_request_duration_seconds",
            "From the request's head to the answer's last byte, by route and method.",
            ("handler", "method"),
            buckets=_HTTP_SECONDS,
            registry=self.registry,
        )

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, LABELS, registry=self.registry).labels(*self._label_values)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        family = Histogram(name, text, LABELS, buckets=buckets, registry=self.registry)
        return family.labels(*self._label_values)

    @property
    def engine_names(self) -> set[str]:
        """The names of the metrics that are the engine's own."""
        engine = self._engine_collector
        return set() if engine is None else {metric.name for metric in engine.collect()}

    def read_from(self, engine: Engine | None) -> None:
        """Export this engine's own gauges and counters from now on; None: no engine's."""
        if self._engine_collector is not None:
            self.registry.unregister(self._engine_collector)
        self._engine_collector = None
        if engine is not None:
            self._engine_collector = EngineCollector(engine, self._label_values, self)
            self.registry.register(self._engine_collector)

    def tokens(self) -> tuple[float, float]:
        """Return the prompt tokens and output tokens counted since start."""
        labels = dict(zip(LABELS, self._label_values, strict=True))
        names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
        prompt, generation = (self.registry.get_sample_value(name, labels) for name in names)
        return prompt or 0.0, generation or 0.0

    def sum_and_count(self, histogram: str) -> tuple[float, float]:
        """Return the sum and the number of a histogram's observations since start."""
        labels = dict(zip(LABELS, self._label_values, strict=True))
        total, count = (
            self.registry.get_sample_value(histogram + part, labels) for part in ("_sum", "_count")
        )
        return total or 0.0, count or 0.0

    def observe_pooling(self, output: PoolingOutput, seconds: float) -> None:
        """Count one answered call for embeddings or scores, and how long it took."""
        self.prompt_tokens.inc(output.prompt_tokens)
        self.request_prompt_tokens.observe(output.prompt_tokens)
        self.latency.observe(seconds)
        self.finished["stop"].inc()
        if output.metrics is not None:
            self.queue_time.observe(output.metrics.queue_time)

    def observe_http(
        self, handler: str, method: str, status: int, seconds: float, sizes: tuple[int, int]
    ) -> None:
        """Count one HTTP exchange; `handler` is a route template, `method` a known one.

        `sizes` are the bytes of the request's body and of the answer's.
        """
        self.http_requests.labels(handler, method, str(status)).inc()
        self.http_duration.labels(handler, method).observe(seconds)
        self.http_request_size.labels(handler).observe(sizes[0])
        self.http_response_size.labels(handler).observe(sizes[1])


class EngineCollector(Collector):
    """Reads the engine's last statistics whenever the metrics are asked for."""

    def __init__(
        self, engine: Engine, label_values: tuple[str, str], metrics: ServerMetrics
    ) -> None:
        self._engine = engine
        self._label_values = label_values
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield the engine's gauges and counters."""
        stats, info = self._engine.stats(), self._engine.info
        waiting = stats.num_waiting + self._metrics.calls_in_front()
        gauges = (
            ("vllm:num_requests_running", "Sequences in the running batch.", stats.num_running),
            ("vllm:num_requests_waiting", "Sequences that wait for admission.", waiting),
            (
                "vllm:kv_cache_usage_perc",
                "Share of KV blocks in use, 0 to 1.",
                stats.kv_cache_usage,
            ),
            ("windlass:kv_cache_free_blocks", "KV blocks that are free.", stats.num_free_blocks),
        )
        for name, text, value in gauges:
            gauge = GaugeMetricFamily(name, text, labels=LABELS)
            gauge.add_metric(self._label_values, value)
            yield gauge
        counters = (
            ("vllm:prefix_cache_queries", "Prompt tokens looked up.", stats.prefix_cache_queries),
            ("vllm:prefix_cache_hits", "Prompt tokens found.", stats.prefix_cache_hits),
            ("vllm:num_preemptions", "Sequences put back to waiting.", stats.num_preemptions),
            ("windlass:engine_restarts", "Engine deaths survived.", self._engine.restarts),
            ("windlass:engine_steps", "Steps run.", stats.num_steps),
        )
        for name, text, value in counters:
            counter = CounterMetricFamily(name, text, labels=LABELS)
            counter.add_metric(self._label_values, value)
            yield counter
        steps = HistogramMetricFamily(
            "vllm:iteration_tokens_total", "Tokens by step of the engine.", labels=LABELS
        )
        counts = itertools.accumulate(stats.step_sizes or [0] * (len(step_sizes.BOUNDS) + 1))
        bounds = (*(str(float(bound)) for bound in step_sizes.BOUNDS), "+Inf")
        buckets = list(zip(bounds, counts, strict=True))
        steps.add_metric(self._label_values, buckets, stats.step_tokens)
        yield steps
        config = GaugeMetricFamily(
            "vllm:cache_config_info",
            "How the KV cache is cut; always 1.",
            labels=(*LABELS, "block_size", "num_gpu_blocks"),
        )
        sizes = (str(info.block_size), str(info.num_blocks))
        config.add_metric((*self._label_values, *sizes), 1)
        yield config


class RequestTimer:
    """Observes one engine request, from its arrival on the monotonic clock to its end.

    `prompt_tokens` is None until the first output; `tokens` is what came out so far. `times` come
    with the end, from the engine.
    """

    def __init__(
        self, metrics: ServerMetrics, sampling: SamplingParams, *, count_max: bool
    ) -> None:
        self._metrics = metrics
        self._arrival = time.monotonic()
        self._first: float | None = None
        self._last = 0.0
        self.prompt_tokens: int | None = None
        self.tokens = 0
        self.times: RequestMetrics | None = None
        self._open = sampling.n
        metrics.request_n.observe(sampling.n)
        if count_max and sampling.max_tokens is not None:
            metrics.request_max_tokens.observe(sampling.max_tokens)

    def observe(self, output: RequestOutput) -> None:
        """Observe the news of one output."""
        metrics, now = self._metrics, time.monotonic()
        if self._first is None:
            self._first = now
            metrics.first_token.observe(now - self._arrival)
            self.prompt_tokens = len(output.prompt_token_ids)
            metrics.prompt_tokens.inc(self.prompt_tokens)
            metrics.cached_tokens.inc(output.num_cached_tokens)
            metrics.request_prompt_tokens.observe(self.prompt_tokens)
            metrics.computed_tokens.observe(self.prompt_tokens - output.num_cached_tokens)
        else:
            metrics.output_tokens.waited(now - self._last)
        self._last = now
        for choice in output.outputs:
            new = len(choice.token_ids)
            self.tokens += new
            metrics.output_tokens.tokens += new
            if choice.finish_reason is not None:
                self._open -= 1
                metrics.finished[choice.finish_reason].inc()
        if output.finished:
            self._finish(output, now)

    def _finish(self, output: RequestOutput, now: float) -> None:
        metrics = self._metrics
        metrics.latency.observe(now - self._arrival)
        metrics.request_generation_tokens.observe(self.tokens)
        if self._first is not None and self.tokens > 1:
            metrics.per_token.observe((now - self._first) / (self.tokens - 1))
        self.times = times = output.metrics
        if times is not None:
            metrics.queue_time.observe(times.queue_time)
            metrics.preemptions.observe(times.num_preemptions)
            if times.time_to_first_token:
                metrics.prefill_time.observe(times.time_to_first_token - times.queue_time)
                metrics.decode_time.observe(times.total_time - times.time_to_first_token)
                metrics.inference_time.observe(times.total_time - times.queue_time)

    def end(self, *, failed: bool) -> None:
        """Count the choices that never finished."""
        if self._open > 0:
            self._metrics.finished["error" if failed else "abort"].inc(self._open)
        self._open = 0
