"""The conformance kit on backends that do conform, and on processes that crash."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from windlass.cli import main
from windlass.errors import PluginError
from windlass.testing.conformance import BackendConformance, Outcome, Report, Target, prove
from windlass.testing.conformance.cases import Absent, Case, Skipped, check_all

ROOT = Path(__file__).parents[3]

PLUGIN = """
{first}
from windlass.plugin import Availability, BackendSpec, OpProvider, Status, hookimpl

@hookimpl
def windlass_backend():
    return BackendSpec(
        name="mine", target="windlass.backend:TorchBackend", device_type="cpu", priority=1
    )

@hookimpl
def windlass_probe():
    {probe}

@hookimpl
def windlass_op_providers(backend, arch):
    return [{ops}]
"""
AVAILABLE = "return Availability.available()"
OPS = """
import os, signal, torch
from windlass.backend import Support
from windlass.kernels import reference

def rms_norm(x, weight, eps):
    if x.shape == (7, 96) and x.dtype is torch.float16 and x.is_contiguous():
        os.kill(os.getpid(), signal.SIGSEGV)
    return reference.rms_norm(x, weight, eps)

def narrow(x):
    return Support.no("it is wide") if x.shape[-1] > 100 else Support()

def silu_mul(x):
    assert x.shape[-1] <= 100
    return reference.silu_mul(x)
"""


class TestCpu(BackendConformance):
    backend = "cpu"


def test_the_sample_plugin_conforms(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is its own; an integration test proves all of it, installed."""
    monkeypatch.syspath_prepend(str(ROOT / "tests/sample_plugin"))
    target = Target("sample", "windlass_sample.plugin")
    report = prove(target, ["L0", "L2"], providers=["sample"])
    assert report.proven, report.failure_text()


def test_processes_share_the_cases_of_a_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests/sample_plugin"))

    def told(jobs: int) -> list[tuple[str, str]]:
        target = Target("sample", "windlass_sample.plugin", jobs=jobs)
        report = prove(target, ["L0", "L2"], providers=["sample"])
        return [(outcome.case, outcome.status) for outcome in report.outcomes]

    assert told(3) == told(1)
    with pytest.raises(PluginError, match="jobs must be at least 1"):
        told(0)


def write_plugin(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    first: str = "",
    probe: str = AVAILABLE,
    ops: str = "",
) -> Target:
    """A plugin's module in a folder that child processes search."""
    (folder / "conformance_plugin.py").write_text(PLUGIN.format(first=first, probe=probe, ops=ops))
    (folder / "conformance_ops.py").write_text(OPS)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "conformance_plugin", raising=False)
    return Target("mine", "conformance_plugin")


def provider(op: str, supports: str = "") -> str:
    supports = f"conformance_ops:{supports}" if supports else ""
    return (
        f"OpProvider(op={op!r}, name='own', target='conformance_ops:{op}', supports={supports!r})"
    )


@pytest.mark.parametrize(
    ("fault", "case", "reason"),
    [
        ({"first": "import torch"}, "discovery imports nothing heavy", "torch"),
        (
            {"first": "try:\n    import triton\nexcept ImportError:\n    pass"},
            "discovery imports nothing heavy",
            "triton",
        ),
        (
            {"probe": f"import time; sum(range(2 * 10**7)); {AVAILABLE}"},
            "discovery is quick",
            "processor time",
        ),
        (
            {"probe": f"globals()['kept'] = open('/dev/ptmx'); {AVAILABLE}"},
            "probe leaves no device open",
            "/dev/",
        ),
        ({"probe": "raise RuntimeError('driver')"}, "spec is valid", "driver"),
        (
            {"probe": "return Availability(status=Status.NO_DEVICE)"},
            "spec is valid",
            "no reason",
        ),
        ({"ops": f"{provider('silu_mul')}, {provider('silu_mul')}"}, "op providers are valid", ""),
        ({"first": "import os; os.abort()"}, "spec is valid", "SIGABRT"),
    ],
)
def test_hygiene_is_proved(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: dict[str, str],
    case: str,
    reason: str,
) -> None:
    report = prove(write_plugin(tmp_path, monkeypatch, **fault), ["L0"])
    found = {failure.case: failure.reason for failure in report.failures}
    assert reason in found[case]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_crash_is_a_failed_case_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    target = write_plugin(tmp_path, monkeypatch, ops=provider("rms_norm"))
    report = prove(replace(target, jobs=jobs), ["L2"], providers=["own"])
    (crashed,) = report.failures
    assert crashed.case == "rms_norm float16 7x96"
    assert "SIGSEGV" in crashed.reason
    cases = [outcome.case for outcome in report.outcomes]
    assert len(set(cases)) == len(cases)
    assert "rms_norm float16 33x1000" in cases
    assert "rms_norm float32 7x96" in cases


def test_what_a_provider_refuses_and_what_cannot_be_imported_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops = provider("silu_mul", supports="narrow") + (
        ", OpProvider(op='greedy', name='own', target='no_such_module:greedy')"
    )
    target = write_plugin(tmp_path, monkeypatch, ops=ops)
    report = prove(target, ["L2"], providers=["own"])
    assert not report.failures
    reasons = {skip.case.split()[0]: skip.reason for skip in report.skips}
    assert "it is wide" in reasons["silu_mul"]
    assert "no_such_module" in reasons["greedy"]
    assert any(outcome.status == "passed" for outcome in report.outcomes)


def test_the_command_writes_json_and_fails_where_nothing_could_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    away = "return Availability(status=Status.NO_DEVICE, reason='no card here')"
    write_plugin(tmp_path, monkeypatch, probe=away)
    options = ["--plugin", "conformance_plugin", "--level", "L0", "L1"]
    file = tmp_path / "report.json"
    assert main(["conformance", "mine", *options, "--json", str(file)]) == 1
    assert "nothing ran of L1" in capsys.readouterr().out
    outcomes = json.loads(file.read_text())["outcomes"]
    assert [o["reason"] for o in outcomes if o["level"] == "L1"] == ["no device: no card here"]
    assert {o["status"] for o in outcomes if o["level"] == "L0"} == {"passed"}


def test_a_level_that_takes_too_long_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "cpu", "--level", "L0", "--timeout", "0.01"]) == 1
    assert "it did not end within 0.01 s" in capsys.readouterr().out


def test_a_backend_that_is_not_installed_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "abacus", "--level", "L0"]) == 1
    assert "abacus" in capsys.readouterr().out


def refuse(error: Exception) -> Case:
    def check() -> None:
        raise error

    return Case(type(error).__name__, check)


def test_a_case_may_measure_and_what_does_not_exist_is_not_what_is_skipped() -> None:
    cases = [
        Case("copy", lambda: {"bytes per second": 2.5}),
        refuse(Skipped("it is wide")),
        refuse(Absent("there are no graphs")),
    ]
    copy, skipped, absent = check_all("L8", cases)
    assert (copy.status, copy.measured) == ("passed", {"bytes per second": 2.5})
    assert (skipped.status, absent.status) == ("skipped", "absent")
    assert absent.reason == "there are no graphs"


@pytest.mark.parametrize(
    ("status", "proven"),
    [("passed", True), ("absent", True), ("skipped", False), ("failed", False)],
)
def test_a_level_with_nothing_to_prove_spoils_no_verdict(status: str, proven: bool) -> None:
    outcomes = (
        Outcome(level="L0", case="spec is valid", status="passed"),
        Outcome(level="L5", case="all", status=status),  # type: ignore[arg-type]
    )
    report = Report(
        windlass="1", backend="mine", levels=("L0", "L5"), outcomes=outcomes, seconds=1.0
    )
    assert report.proven == proven


def test_a_level_that_does_not_exist_is_refused() -> None:
    with pytest.raises(PluginError, match="L9"):
        prove(Target("cpu"), ["L9"])
