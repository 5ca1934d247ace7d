"""`windlass generate` with the demo model."""

from __future__ import annotations

import io
import json

import pytest

from windlass.cli import main

SMALL = ["--num-blocks", "64", "--temperature", "0"]


def test_every_prompt_is_completed_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    prompts = ["--prompt", "Once upon a time", "--prompt", "One day"]
    assert main(["generate", *prompts, "--max-tokens", "4", "--json", *SMALL]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [result["prompt"] for result in results] == ["Once upon a time", "One day"]
    for result in results:
        assert result["text"]
        assert result["output_tokens"] == 4
        assert result["finish_reason"] == "length"


def test_prompts_are_read_one_per_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Once upon a time\n\nOne day\n"))
    assert main(["generate", "--max-tokens", "1", "--json", *SMALL]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [result["prompt"] for result in results] == ["Once upon a time", "One day"]


def test_text_output_continues_the_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--prompt", "Once upon a time", "--max-tokens", "3", *SMALL]) == 0
    assert capsys.readouterr().out.startswith("Once upon a time ")


def test_no_prompt_at_all_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert main(["generate"]) == 2
    assert "holds no prompt" in capsys.readouterr().err
