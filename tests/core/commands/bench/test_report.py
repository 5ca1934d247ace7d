"""The median run and the spread beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from windlass.commands.bench.report import median_run, percentile_key, print_table, write_json
from windlass.errors import ConfigError

RUNS = [{"rate": rate, "failed": 0, "errors": []} for rate in (3.0, 1.0, 2.0)]


def test_the_median_run_carries_the_spread_of_all() -> None:
    assert median_run(RUNS, "rate") == {
        "rate": 2.0,
        "failed": 0,
        "errors": [],
        "num_runs": 3,
        "spread": {
            "rate": {"min": 1.0, "median": 2.0, "max": 3.0},
            "failed": {"min": 0, "median": 0.0, "max": 0},
        },
    }


def test_a_single_run_has_no_spread() -> None:
    assert median_run(RUNS[:1], "rate") == RUNS[0]


@pytest.mark.parametrize(("percentile", "key"), [(99.0, "p99"), (99.9, "p99.9"), (50, "p50")])
def test_percentiles_are_named_as_in_vllm(percentile: float, key: str) -> None:
    assert percentile_key(percentile) == key


def test_a_table_shows_value_and_spread(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Title", [("rate", 2.0), ("name", "x")], {"rate": {"min": 1.0, "max": 3.0}})
    shown = capsys.readouterr().out
    assert "1.00 to 3.00" in shown
    assert shown.startswith("Title")


def test_json_goes_where_it_is_told(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", {"rate": 1.5})
    assert json.loads((tmp_path / "result.json").read_text()) == {"rate": 1.5}


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere/result.json"):
        write_json(tmp_path / "nowhere/result.json", {})
