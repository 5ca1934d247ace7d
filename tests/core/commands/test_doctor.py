"""`windlass doctor` as a command; what it finds is tested in `tests/core/plugin`."""

from __future__ import annotations

import json

import pytest

from windlass.cli import main


def test_json_is_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--backend", "cpu"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["selected"] == "cpu"


def test_a_backend_that_nobody_provides_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--backend", "abacus"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["selected"] == ""
    assert "abacus" in report["problem"]
