"""What was measured, and what follows: ratios and distances to the floor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from gpu_peers.workloads import OUTPUT
from peers.spread import Spread

OURS = "windlass"


@dataclass(frozen=True)
class Sample:
    """One figure of one engine in its turn. `floor` is the best value that the device allows, in
    the unit of `metric`; None where there is no such value."""

    model: str
    engine: str
    turn: int
    work: str
    metric: str
    value: float
    floor: float | None = None

    @property
    def share_of_floor(self) -> float | None:
        """1 at the floor, less above it."""
        if self.floor is None:
            return None
        return self.value / self.floor if higher_is_better(self.metric) else self.floor / self.value


@dataclass(frozen=True)
class Failure:
    """What an engine could not do; `work` is empty when it concerns all work."""

    model: str
    engine: str
    work: str
    error: str


def higher_is_better(metric: str) -> bool:
    """Whether it is a rate; all other metrics are times."""
    return metric == OUTPUT


def ratios(samples: Iterable[Sample], engine: str) -> list[float]:
    """Windlass over the engine in one work and metric, above 1 where Windlass is faster: each of
    its figures with each of the other's."""
    listed = list(samples)
    ours = [s for s in listed if s.engine == OURS]
    theirs = [s for s in listed if s.engine == engine]
    pairs = [(a.value, b.value, higher_is_better(a.metric)) for a in ours for b in theirs]
    return [a / b if rate else b / a for a, b, rate in pairs]


def tables(samples: Sequence[Sample], failures: Sequence[Failure]) -> Iterator[Table]:
    """One for each model."""
    for model in dict.fromkeys([s.model for s in samples] + [f.model for f in failures]):
        yield _table(
            model,
            [s for s in samples if s.model == model],
            [f for f in failures if f.model == model],
        )


def _table(model: str, samples: Sequence[Sample], failures: Sequence[Failure]) -> Table:
    table = Table(
        title=f"{model}: median (lowest-highest)", title_justify="left", caption_justify="left"
    )
    for heading in ("work", "metric", "engine"):
        table.add_column(heading, no_wrap=True)
    for heading in ("value", "% of floor", "windlass / engine"):
        table.add_column(heading, justify="right", no_wrap=True)
    for work, metric in dict.fromkeys((s.work, s.metric) for s in samples):
        of_work = [s for s in samples if (s.work, s.metric) == (work, metric)]
        for engine in dict.fromkeys(s.engine for s in of_work):
            own = [s for s in of_work if s.engine == engine]
            shares = [100 * s.share_of_floor for s in own if s.share_of_floor is not None]
            shared = ratios(of_work, engine) if engine != OURS else []
            table.add_row(
                work,
                metric,
                engine,
                Spread.of([s.value for s in own]).text(2),
                Spread.of(shares).text(1) if shares else "",
                Spread.of(shared).text(2) if shared else "",
            )
    table.caption = "\n".join(f"{f.engine}, {f.work or 'all'}: {f.error}" for f in failures)
    return table
