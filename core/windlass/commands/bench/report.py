"""What a benchmark prints and saves: a table for people, JSON for programs, always the spread."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from windlass.errors import ConfigError

Result = dict[str, Any]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the minimum, median and maximum."""
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}


def percentile_key(percentile: float) -> str:
    """Return "p99" for 99 and "p99.9" for 99.9."""
    return f"p{percentile:g}"


def median_run(runs: Sequence[Result], key: str) -> Result:
    """Return the run whose `key` is the (lower) median, and beside it the spread over all runs.

    With more than one run the result gains `num_runs` and `spread`: min, median and max of every
    number that all runs have.
    """
    ranked = sorted(runs, key=lambda run: run[key])
    chosen = dict(ranked[(len(ranked) - 1) // 2])
    if len(runs) > 1:
        chosen["num_runs"] = len(runs)
        chosen["spread"] = {
            name: spread([run[name] for run in runs])
            for name, value in chosen.items()
            if isinstance(value, int | float) and all(_is_number(run.get(name)) for run in runs)
        }
    return chosen


def print_table(title: str, rows: Iterable[tuple[str, object]], spreads: Mapping[str, Any]) -> None:
    """Print `rows` of (label or key, value); a key found in `spreads` shows min and max too."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("value", justify="right")
    if spreads:
        table.add_column("min to max", justify="right")
    for key, value in rows:
        cells = [key, _text(value)]
        if spreads:
            found = spreads.get(key)
            cells.append(f"{_text(found['min'])} to {_text(found['max'])}" if found else "")
        table.add_row(*cells)
    Console().print(table)


def write_json(path: str | Path, result: Result) -> None:
    """Write the result where `path` says; raises ConfigError when that cannot be written."""
    try:
        Path(path).write_text(json.dumps(result, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"the result cannot be written to {path}: {error}") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else f"{value}"
