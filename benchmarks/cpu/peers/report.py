"""The tables that the script prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from peers.results import OURS, Failure, Sample, Verdict, ratios, verdict
from peers.spread import Spread


def tables(samples: Sequence[Sample], failures: Sequence[Failure]) -> Iterator[Table]:
    """Two for each model and precision: every engine's figures, then the verdicts."""
    groups = dict.fromkeys((s.model, s.precision) for s in samples)
    groups |= dict.fromkeys((f.model, f.precision) for f in failures)
    for model, precision in groups:
        of_group = [s for s in samples if (s.model, s.precision) == (model, precision)]
        failed = [f for f in failures if (f.model, f.precision) == (model, precision)]
        title = f"{model}, {precision}"
        yield _figures(title, of_group, failed)
        verdicts = list(_verdicts(of_group, precision))
        if verdicts:
            yield _verdict_table(title, verdicts)


def _figures(title: str, samples: Sequence[Sample], failures: Sequence[Failure]) -> Table:
    table = _table(
        f"{title}: median (lowest-highest)",
        ("work", "metric", "engine"),
        ("value", "time / floor", "windlass / engine", "runs"),
    )
    for work, metric in _pairs(samples):
        of_work = [s for s in samples if s.work == work]
        for engine in dict.fromkeys(s.engine for s in of_work):
            own = [s for s in of_work if s.engine == engine]
            shared = ratios(of_work, engine, metric) if engine != OURS else []
            table.add_row(
                work,
                metric,
                engine,
                Spread.of([s.figures[metric] for s in own]).text(1),
                Spread.of([s.times_floor(metric) for s in own]).text(2),
                Spread.of(shared).text(2) if shared else "",
                str(len(own)),
            )
        table.add_section()
    for failure in failures:
        table.add_row(failure.work or "all", "any", failure.engine, "failed")
    table.caption = "\n".join(f"{f.engine}, {f.work or 'all'}: {f.error}" for f in failures)
    return table


def _verdict_table(title: str, verdicts: Sequence[Verdict]) -> Table:
    table = _table(
        f"{title}: windlass against the best peer",
        ("work", "metric", "best peer"),
        ("ratio", "target", "time / floor", "target", "met"),
    )
    for found in verdicts:
        target = found.target
        table.add_row(
            found.work,
            found.metric,
            found.peer,
            found.ratio.text(2),
            f">= {target.ratio:g}" if target else "",
            found.floor.text(2),
            f"<= {target.floor:g}" if target and target.floor else "",
            {True: "yes", False: "NO", None: ""}[found.met],
        )
    return table


def _verdicts(samples: Sequence[Sample], precision: str) -> Iterator[Verdict]:
    for work, metric in _pairs(samples):
        found = verdict([s for s in samples if s.work == work], precision, work, metric)
        if found:
            yield found


def _pairs(samples: Sequence[Sample]) -> list[tuple[str, str]]:
    """Work and metric, in the order in which they ran."""
    return list(dict.fromkeys((s.work, metric) for s in samples for metric in s.figures))


def _table(title: str, words: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    for heading in words:
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
