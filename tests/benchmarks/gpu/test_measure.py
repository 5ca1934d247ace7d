"""Figures, read off an engine whose speed is known."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from gpu_peers.floors import Ceilings, Costs
from gpu_peers.measure import Measurement
from gpu_peers.models import config_of
from gpu_peers.results import Failure, Sample, ratios, tables
from gpu_peers.workloads import OUTPUT, PREFILL, STEP, TTFT, Work, workloads

COSTS = Costs.of(config_of("tiny"))
CEILINGS = Ceilings(1e12, 1e14)
STEP_SECONDS, TOKEN_SECONDS = 0.002, 1e-5


def steady_engine(command: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Every step takes the same time, every prompt token a little."""
    counts = payload["output_lens"]
    if command == "run":
        tokens = sum(map(len, payload["prompts"]))
        seconds = tokens * TOKEN_SECONDS + max(counts) * STEP_SECONDS
        return {"seconds": seconds, "counts": counts}
    ends = [STEP_SECONDS * count for count in counts]
    first = [STEP_SECONDS] * len(counts)
    gaps = [STEP_SECONDS] * (sum(counts) - len(counts))
    return {"first": first, "end": ends, "counts": counts, "gaps": gaps, "seconds": 20.0}


MEASUREMENT = Measurement(steady_engine, COSTS, CEILINGS, max_running=8)
WORKS = {work.test: work for work in workloads([4], 512, 64, [2.0], 4.0, shrink=8)}


def measured(work: Work) -> dict[str, float]:
    return {figure.metric: figure.value for figure in MEASUREMENT.run(work, 0)}


def test_a_decode_step_is_free_of_the_prefill() -> None:
    assert measured(WORKS["decode"]) == pytest.approx(
        {STEP: 1e3 * STEP_SECONDS, OUTPUT: 4 / STEP_SECONDS}
    )


def test_a_prefill_is_the_time_of_one_token() -> None:
    expected = 1e3 * (WORKS["prefill"].length * TOKEN_SECONDS + STEP_SECONDS)
    assert measured(WORKS["prefill"]) == pytest.approx({PREFILL: expected})


def test_a_load_counts_every_token() -> None:
    for name in ("nano", "mixed", "prefix"):
        (figure,) = MEASUREMENT.run(WORKS[name], 0)
        assert figure.floor is not None
        assert 0 < figure.value < figure.floor


def test_arrivals_give_percentiles() -> None:
    found = measured(WORKS["online"])
    assert found[f"{TTFT} p99"] == found["TPOT ms p50"] == pytest.approx(1e3 * STEP_SECONDS)
    assert len(found) == 10


def test_an_answer_that_ends_early_is_no_figure() -> None:
    def short(command: str, payload: dict[str, Any]) -> dict[str, Any]:
        return {"seconds": 1.0, "counts": [1 for _ in payload["output_lens"]]}

    with pytest.raises(ValueError, match="output tokens"):
        Measurement(short, COSTS, CEILINGS, 8).run(WORKS["decode"], 0)


def sample(engine: str, value: float, metric: str = STEP) -> Sample:
    return Sample("tiny", engine, 0, "decode@1", metric, value, floor=1.0)


def test_a_ratio_above_one_means_that_windlass_is_faster() -> None:
    times = [sample("windlass", 2.0), sample("windlass", 4.0), sample("vllm", 6.0)]
    assert ratios(times, "vllm") == [3.0, 1.5]
    rates = [sample("windlass", 30.0, OUTPUT), sample("vllm", 20.0, OUTPUT)]
    assert ratios(rates, "vllm") == [1.5]


def test_the_share_of_the_floor_is_at_most_one_for_times_and_rates() -> None:
    assert sample("vllm", 2.0).share_of_floor == 0.5
    rate = Sample("tiny", "vllm", 0, "nano", OUTPUT, 50.0, floor=100.0)
    assert rate.share_of_floor == 0.5


def test_the_table_shows_spread_ratio_and_failures() -> None:
    samples = [sample("windlass", 2.0), sample("windlass", 4.0), sample("vllm", 6.0)]
    console = Console(file=io.StringIO(), width=110)
    for table in tables(samples, [Failure("tiny", "transformers", "", "out of memory")]):
        console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "3.00 (2.00-4.00)" in text
    assert "2.25 (1.50-3.00)" in text
    assert "transformers, all: out of memory" in text
