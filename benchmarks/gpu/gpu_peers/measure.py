"""The workloads on one engine: what is asked of its worker, and what is read off the answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any, Protocol

from gpu_peers.floors import Ceilings, Costs, decode_seconds, load_seconds, prefill_seconds
from gpu_peers.protocol import Answered, Served
from gpu_peers.workloads import (
    GAP,
    OUTPUT,
    PREFILL,
    STEP,
    TPOT,
    TTFT,
    Work,
    fixed,
    load,
    percentile,
    poisson,
)
from peers.protocol import Batch

PREFILL_REPEATS = 5
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Figure:
    """A value, and the best that the device allows in the same unit, where that is known."""

    metric: str
    value: float
    floor: float | None = None


class Asked(Protocol):
    """Sends a command with its payload to a worker and returns the answer."""

    def __call__(self, command: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Ask and wait."""


@dataclass(frozen=True)
class Measurement:
    """How an engine is measured. A decode step takes (T(long) - T(short)) / (long - short), T being
    the time of a batch with so many output tokens; `spans` are (short, long).
    The median of `decode_repeats` such differences counts."""

    ask: Asked
    costs: Costs
    ceilings: Ceilings
    max_running: int
    spans: tuple[int, int] = (16, 144)
    decode_repeats: int = 1

    def run(self, work: Work, seed: object) -> list[Figure]:
        """Measure a workload; other prompts for every seed.

        Raises:
            ValueError: a request did not get as many tokens as it asked for.
        """
        kinds: dict[str, Callable[[Work, object], list[Figure]]] = {
            "decode": self._decode,
            "prefill": self._prefill,
            "load": self._load,
            "online": self._online,
        }
        return kinds[work.kind](work, seed)

    def _decode(self, work: Work, seed: object) -> list[Figure]:
        """`work.length` is the context in the middle of what is measured."""
        short, long = self.spans
        length = max(1, work.length - (short + long) // 2)
        batch = partial(fixed, work.size, length)
        self._seconds(batch(short, f"warm {seed}"))
        step = median(
            (self._seconds(batch(long, f"long {i} {seed}")) - begun) / (long - short)
            for i in range(self.decode_repeats)
            for begun in [self._seconds(batch(short, f"short {i} {seed}"))]
        )
        context = length + (short + long) // 2
        floor = decode_seconds(self.costs, work.size, context, self.ceilings)
        return [
            Figure(STEP, 1e3 * step, 1e3 * floor),
            Figure(OUTPUT, work.size / step, work.size / floor),
        ]

    def _prefill(self, work: Work, seed: object) -> list[Figure]:
        times = [
            self._seconds(fixed(work.size, work.length, 1, f"prefill {i} {seed}"))
            for i in range(PREFILL_REPEATS + 1)
        ]
        floor = prefill_seconds(self.costs, work.size, work.length, self.ceilings)
        return [Figure(PREFILL, 1e3 * median(times[1:]), 1e3 * floor)]

    def _load(self, work: Work, seed: object) -> list[Figure]:
        batch = load(work, seed)
        total = sum(batch.output_lens)
        floor = load_seconds(self.costs, lengths(batch), self.max_running, self.ceilings)
        return [Figure(OUTPUT, total / self._seconds(batch), total / floor)]

    def _online(self, work: Work, seed: object) -> list[Figure]:
        del seed  # the requests of a rate are always the same
        arrivals = poisson(work)
        served = Served(**self.ask("serve", asdict(arrivals)))
        _check(arrivals.output_lens, served.counts)
        longer = [i for i, count in enumerate(served.counts) if count > 1]
        per_token = [
            (served.end[i] - served.first[i]) / (served.counts[i] - 1) for i in longer
        ] or [0.0]
        values = {TTFT: served.first, TPOT: per_token, GAP: served.gaps or [0.0]}
        figures = [
            Figure(f"{metric} p{share}", 1e3 * percentile(times, share / 100))
            for metric, times in values.items()
            for share in PERCENTILES
        ]
        return [*figures, Figure(OUTPUT, sum(served.counts) / served.seconds)]

    def _seconds(self, batch: Batch) -> float:
        answered = Answered(**self.ask("run", asdict(batch)))
        _check(batch.output_lens, answered.counts)
        return answered.seconds


def lengths(batch: Batch) -> list[tuple[int, int, int]]:
    """(cached, new, output tokens) of each request when a prefix is computed for the first that
    has it and cached for the others."""
    found, seen = [], set()
    for prompt, outputs in zip(batch.prompts, batch.output_lens, strict=True):
        prefix = tuple(prompt[: batch.shared_prefix])
        known = len(prefix) if prefix in seen else 0
        seen.add(prefix)
        found.append((known, len(prompt) - known, outputs))
    return found


def _check(asked: list[int], got: list[int]) -> None:
    if asked != got:
        raise ValueError(f"asked for {sum(asked)} output tokens in all, got {sum(got)}")
