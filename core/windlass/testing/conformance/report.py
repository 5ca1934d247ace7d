"""The kit's result: counts and reasons, for a terminal and as JSON."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from windlass.testing.conformance.cases import Outcome

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_SHOWN = 20
"""Failures that are printed one by one."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Every outcome of one run against one backend."""

    windlass: str
    backend: str
    levels: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    seconds: float

    @property
    def failures(self) -> list[Outcome]:
        """Cases that did not hold."""
        return [outcome for outcome in self.outcomes if outcome.status == "failed"]

    @property
    def skips(self) -> list[Outcome]:
        """Cases that the backend says it does not do."""
        return [outcome for outcome in self.outcomes if outcome.status == "skipped"]

    @property
    def absences(self) -> list[Outcome]:
        """Why there is nothing to prove: of levels whose subject does not exist here."""
        return [outcome for outcome in self.outcomes if outcome.status == "absent"]

    @property
    def idle(self) -> list[str]:
        """Levels that were asked for and of which no case ran, though there is something."""
        settled = {outcome.level for outcome in self.outcomes if outcome.status != "skipped"}
        return [level for level in self.levels if level not in settled]

    @property
    def proven(self) -> bool:
        """Whether something of each level that exists here was run, and nothing failed."""
        return not self.failures and not self.idle

    def to_json(self) -> str:
        """Everything, as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()

    def failure_text(self) -> str:
        """The first failures, one a line."""
        lines = [
            f"{failure.level} {failure.case} [{failure.provider or self.backend}]: {failure.reason}"
            for failure in self.failures[:_SHOWN]
        ]
        more = len(self.failures) - _SHOWN
        return "\n".join([*lines, *([f"... and {more} more"] if more > 0 else [])])


def print_report(report: Report, console: Console | None = None) -> None:
    """Print counts by level and provider, failures with their reasons, and reasons of skips."""
    from rich.console import Console
    from rich.markup import escape

    console = console or Console()
    console.print(_counts(report))
    if report.failures:
        console.print("[red]Failed[/]")
        console.print(report.failure_text(), markup=False, highlight=False, soft_wrap=True)
    reasons = Counter((skip.level, skip.provider, skip.reason) for skip in report.skips)
    if reasons:
        console.print("[yellow]Skipped, with the backend's reason[/]")
    for (level, provider, reason), count in reasons.most_common():
        where = f"{level} {provider}".strip()
        console.print(f"{count} x {where}: {reason}", markup=False, highlight=False, soft_wrap=True)
    for absence in report.absences:
        text = f"{absence.level} has nothing to prove: {absence.reason}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    verdict = "[green]proven[/]" if report.proven else "[red]not proven[/]"
    if report.idle:
        verdict += f" (nothing ran of {', '.join(report.idle)})"
    console.print(f"{escape(report.backend)}: {verdict} in {report.seconds:.1f} s")


def _counts(report: Report) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"Conformance of {escape(report.backend)}", title_justify="left")
    for heading in ("level", "provider"):
        table.add_column(heading)
    for heading in ("passed", "failed", "skipped", "seconds"):
        table.add_column(heading, justify="right")
    groups = dict.fromkeys((outcome.level, outcome.provider) for outcome in report.outcomes)
    for level, provider in groups:
        mine = [o for o in report.outcomes if (o.level, o.provider) == (level, provider)]
        counts = Counter(outcome.status for outcome in mine)
        failed = f"[red]{counts['failed']}[/]" if counts["failed"] else "0"
        seconds = sum(outcome.seconds for outcome in mine)
        numbers = (str(counts["passed"]), failed, str(counts["skipped"]), f"{seconds:.1f}")
        table.add_row(level, escape(provider), *numbers)
    return table
