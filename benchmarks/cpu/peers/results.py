"""What was measured, and what follows: ratios, distances to the floor, targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from peers.spread import Spread
from peers.workloads import DECODE, LOWER_IS_BETTER, OUTPUT, PROMPT

OURS = "windlass"


@dataclass(frozen=True)
class Sample:
    """One run of one engine, with the floors from the probes just before and after it.

    `figures` and `floors` are by metric; `bandwidth` in bytes and `flops` in operations a second.
    """

    model: str
    precision: str
    work: str
    engine: str
    repetition: int
    figures: dict[str, float]
    floors: dict[str, float]
    bandwidth: float
    flops: float

    def times_floor(self, metric: str) -> float:
        """How many times as long as the floor it took."""
        value, floor = self.figures[metric], self.floors[metric]
        return value / floor if metric in LOWER_IS_BETTER else floor / value


@dataclass(frozen=True)
class Failure:
    """An engine that could not run; `work` is empty when it concerns all work."""

    model: str
    precision: str
    work: str
    engine: str
    error: str


@dataclass(frozen=True)
class Target:
    """Windlass over the best peer, at least; time over the floor's, at most."""

    ratio: float
    floor: float | None = None


TARGETS = {
    "bf16": {
        ("W1", DECODE): Target(1.0, floor=1.15),
        ("W2@16", OUTPUT): Target(1.5),
        ("W2@64", OUTPUT): Target(1.3),
        ("W3", PROMPT): Target(1.2),
        ("W4", OUTPUT): Target(1.3),
        ("W5", OUTPUT): Target(1.3),
    },
    "int8": {
        ("W1", DECODE): Target(1.3),
        ("W2@16", OUTPUT): Target(1.3),
        ("W2@64", OUTPUT): Target(1.3),
        ("W4", OUTPUT): Target(1.3),
    },
}


@dataclass(frozen=True)
class Verdict:
    """Windlass against the peer that came closest to it, or surpassed it most."""

    work: str
    metric: str
    peer: str
    ratio: Spread
    floor: Spread
    target: Target | None

    @property
    def met(self) -> bool | None:
        """Whether the medians reach the target; None without one."""
        if self.target is None:
            return None
        near = self.target.floor is None or self.floor.median <= self.target.floor
        return self.ratio.median >= self.target.ratio and near


def ratios(samples: Iterable[Sample], engine: str, metric: str) -> list[float]:
    """Windlass over the engine (above 1: Windlass is faster) in each repetition that both ran."""
    samples = list(samples)
    ours = {s.repetition: s.figures[metric] for s in samples if s.engine == OURS}
    theirs = {s.repetition: s.figures[metric] for s in samples if s.engine == engine}
    both = [(ours[r], theirs[r]) for r in sorted(ours.keys() & theirs.keys())]
    if metric in LOWER_IS_BETTER:
        return [peer / own for own, peer in both]
    return [own / peer for own, peer in both]


def verdict(samples: Sequence[Sample], precision: str, work: str, metric: str) -> Verdict | None:
    """Judge the samples of one model, precision and work; None when there is nobody to compare."""
    peers = sorted({s.engine for s in samples} - {OURS})
    found = {peer: ratios(samples, peer, metric) for peer in peers}
    spreads = {peer: Spread.of(values) for peer, values in found.items() if values}
    if not spreads:
        return None
    best = min(spreads, key=lambda peer: spreads[peer].median)
    return Verdict(
        work,
        metric,
        best,
        spreads[best],
        Spread.of([s.times_floor(metric) for s in samples if s.engine == OURS]),
        TARGETS[precision].get((work, metric)),
    )


def too_slow(samples: Sequence[Sample], metric: str) -> set[str]:
    """Peers at less than half the rate of the best engine: they cannot be the best peer."""
    best: dict[str, float] = {}
    for sample in samples:
        rate = sample.figures[metric]
        best[sample.engine] = max(rate, best.get(sample.engine, 0.0))
    peers = {engine: rate for engine, rate in best.items() if engine != OURS}
    return {engine for engine, rate in peers.items() if rate < max(peers.values()) / 2}
