"""`windlass bench` from the command line to the JSON that other tools read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scripted_server import ScriptedServer

from windlass.cli import main


def bench(file: Path, *arguments: str) -> dict[str, Any]:
    assert main(["bench", *arguments, str(file)]) == 0
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def test_latency_times_every_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--batch-size", "2", "--input-len", "8", "--output-len", "3", "--num-blocks", "64"]
    runs = ["--num-iters", "3", "--num-iters-warmup", "1"]
    result = bench(tmp_path / "latency.json", "latency", *sizes, *runs, "--output-json")
    assert len(result["latencies"]) == 3
    assert min(result["latencies"]) <= result["avg_latency"] <= max(result["latencies"])
    assert list(result["percentiles"]) == ["10", "25", "50", "75", "90", "99"]
    assert "2 requests, 8 tokens in, 3 out" in capsys.readouterr().out


def test_throughput_counts_every_token(tmp_path: Path) -> None:
    shape = ["--random-input-len", "8", "--random-output-len", "4", "--random-prefix-len", "2"]
    count = ["--num-prompts", "3", "--repeats", "2", "--num-blocks", "64"]
    result = bench(tmp_path / "throughput.json", "throughput", *shape, *count, "--output-json")
    assert result["num_requests"] == 3
    assert result["total_num_tokens"] == 3 * (8 + 2 + 4)
    assert result["tokens_per_second"] == pytest.approx(42 / result["elapsed_time"])
    assert result["requests_per_second"] == pytest.approx(3 / result["elapsed_time"])
    assert set(result["spread"]["elapsed_time"]) == {"min", "median", "max"}


SERVE = ["--random-input-len", "5", "--random-output-len", "3", "--num-prompts", "4"]


def test_serve_reports_under_vllms_names(server: ScriptedServer, tmp_path: Path) -> None:
    options = ["--base-url", server.url, "--ignore-eos", "--goodput", "ttft:60000"]
    result = bench(
        tmp_path / "serve.json",
        "serve",
        *(*SERVE, *options, "--request-rate", "1000", "--save-result", "--result-filename"),
    )
    assert result["completed"] == 4
    assert result["failed"] == 0
    assert result["total_input_tokens"] == 20
    assert result["total_output_tokens"] == 12
    assert result["request_goodput"] == result["request_throughput"]
    for metric in ("ttft", "tpot", "itl", "e2el"):
        for statistic in ("mean", "median", "std", "p99"):
            assert result[f"{statistic}_{metric}_ms"] >= 0
    assert all(body["ignore_eos"] for body in server.bodies)


def test_serve_never_sends_a_prompt_twice(server: ScriptedServer) -> None:
    assert main(["bench", "serve", *SERVE, "--base-url", server.url, "--repeats", "3"]) == 0
    prompts = [tuple(body["prompt"]) for body in server.bodies]
    # One warm-up request, and four in each run.
    assert len(set(prompts)) == len(prompts) == 1 + 3 * 4


def test_serve_fails_when_a_request_fails(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refusal = "not today"
    assert main(["bench", "serve", *SERVE, "--base-url", server.url]) == 1
    assert "4 requests failed, for example: RequestError" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--percentile-metrics", "ttft,speed"),
        ("--metric-percentiles", "most"),
        ("--metric-percentiles", "101"),
        ("--goodput", "speed:5"),
        ("--goodput", "ttft"),
        ("--num-prompts", "0"),
        ("--max-concurrency", "0"),
        ("--request-rate", "0"),
        ("--burstiness", "nan"),
    ],
)
def test_serve_names_a_wrong_option(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "serve", option, value]) == 2
    assert option in capsys.readouterr().err
