"""What was seen of one request under load, and what a run of them amounts to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from windlass.commands.bench.report import Result, percentile_key


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """Times in seconds on the client's clock. `arrivals` are the times of chunks with text."""

    start: float
    prompt_tokens: int
    output_tokens: int = 0
    arrivals: list[float] = field(default_factory=list)
    end: float = 0.0
    error: str | None = None

    @property
    def ttft(self) -> float:
        """Time to first token."""
        return (self.arrivals[0] if self.arrivals else self.end) - self.start

    @property
    def latency(self) -> float:
        """End-to-end latency."""
        return self.end - self.start

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first; None for an answer of one token."""
        if self.output_tokens < 2:
            return None
        return (self.latency - self.ttft) / (self.output_tokens - 1)

    @property
    def inter_token_latencies(self) -> list[float]:
        """The times between chunks."""
        return np.diff(self.arrivals).tolist()

    def meets(self, goals_ms: Mapping[str, float]) -> bool:
        """Whether every goal (metric -> at most this many milliseconds) is met."""
        seen = {"ttft": self.ttft, "tpot": self.tpot or 0.0, "e2el": self.latency}
        return all(seen[name] * 1000 <= goal for name, goal in goals_ms.items())


def summarise(
    records: Sequence[RequestRecord],
    duration: float,
    *,
    metrics: Sequence[str],
    percentiles: Sequence[float],
    goals_ms: Mapping[str, float] | None = None,
) -> Result:
    """Rates per second over `duration` (seconds) and times in milliseconds, as vLLM names them."""
    done = [record for record in records if record.error is None]
    input_tokens = sum(record.prompt_tokens for record in done)
    output_tokens = sum(record.output_tokens for record in done)
    result: Result = {
        "duration": duration,
        "completed": len(done),
        "failed": len(records) - len(done),
        "total_input_tokens": input_tokens,
        "total_output_tokens": output_tokens,
        "request_throughput": len(done) / duration,
    }
    if goals_ms:
        result["request_goodput"] = sum(record.meets(goals_ms) for record in done) / duration
    result["output_throughput"] = output_tokens / duration
    result["total_token_throughput"] = (input_tokens + output_tokens) / duration
    result["max_concurrent_requests"] = _peak(done)
    seconds = {
        "ttft": [record.ttft for record in done],
        "tpot": [record.tpot for record in done if record.tpot is not None],
        "itl": [gap for record in done for gap in record.inter_token_latencies],
        "e2el": [record.latency for record in done],
    }
    for metric in metrics:
        result |= _distribution(metric, seconds[metric], percentiles)
    return result


def _distribution(metric: str, seconds: Sequence[float], percentiles: Sequence[float]) -> Result:
    times = np.asarray(seconds if len(seconds) else [0.0]) * 1000
    result = {
        f"mean_{metric}_ms": float(times.mean()),
        f"median_{metric}_ms": float(np.median(times)),
        f"std_{metric}_ms": float(times.std()),
    }
    for percentile in percentiles:
        name = f"{percentile_key(percentile)}_{metric}_ms"
        result[name] = float(np.percentile(times, percentile))
    return result


def _peak(records: Sequence[RequestRecord]) -> int:
    changes = [(record.start, 1) for record in records] + [(record.end, -1) for record in records]
    running = np.cumsum([change for _, change in sorted(changes)])
    return int(running.max(initial=0))
