"""What a run of requests amounts to, computed by hand."""

from __future__ import annotations

import pytest

from windlass.commands.bench.request_record import RequestRecord, summarise

# Sent at 0 s, three tokens at 1.0, 1.5 and 2.0 s; sent at 1 s, one token at 1.5 s; failed.
RECORDS = [
    RequestRecord(start=0, prompt_tokens=10, output_tokens=3, arrivals=[1.0, 1.5, 2.0], end=2.0),
    RequestRecord(start=1, prompt_tokens=20, output_tokens=1, arrivals=[1.5], end=1.5),
    RequestRecord(start=1, prompt_tokens=99, output_tokens=1, end=9.0, error="refused"),
]


def test_rates_count_what_succeeded() -> None:
    result = summarise(RECORDS, 2.0, metrics=(), percentiles=())
    assert result == {
        "duration": 2.0,
        "completed": 2,
        "failed": 1,
        "total_input_tokens": 30,
        "total_output_tokens": 4,
        "request_throughput": 1.0,
        "output_throughput": 2.0,
        "total_token_throughput": 17.0,
        "max_concurrent_requests": 2,
    }


def test_times_are_in_milliseconds() -> None:
    metrics = ("ttft", "tpot", "itl", "e2el")
    result = summarise(RECORDS, 2.0, metrics=metrics, percentiles=(50, 99.9))
    assert result["mean_ttft_ms"] == pytest.approx(750)
    assert result["p50_ttft_ms"] == result["median_ttft_ms"] == pytest.approx(750)
    assert result["p99.9_ttft_ms"] == pytest.approx(999.5)
    # The request of one token has no time per output token.
    assert result["mean_tpot_ms"] == pytest.approx(500)
    assert result["mean_itl_ms"] == pytest.approx(500)
    assert result["mean_e2el_ms"] == pytest.approx(1250)


@pytest.mark.parametrize(
    ("goals", "met"),
    [({"ttft": 600.0}, 1), ({"ttft": 1000.0, "tpot": 500.0}, 2), ({"e2el": 100.0}, 0)],
)
def test_goodput_counts_requests_that_meet_every_goal(goals: dict[str, float], met: int) -> None:
    result = summarise(RECORDS, 2.0, metrics=(), percentiles=(), goals_ms=goals)
    assert result["request_goodput"] == met / 2.0


def test_a_run_in_which_all_failed_has_a_summary() -> None:
    result = summarise(RECORDS[2:], 9.0, metrics=("itl",), percentiles=(99,))
    assert result["completed"] == 0
    assert result["p99_itl_ms"] == 0
