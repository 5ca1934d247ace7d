"""`windlass doctor`: what was found, what would be chosen, and by which provider each op runs."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from windlass.config import BackendConfig
from windlass.plugin import BackendSpec, OpProvider, doctor, hookimpl
from windlass.plugin.doctor_table import print_report


def plugin_with_ops(target: str = "windlass.backend:TorchBackend") -> SimpleNamespace:
    """A plugin named "toy" with an op provider that loads and one that does not."""

    @hookimpl
    def windlass_backend() -> BackendSpec:
        return BackendSpec(name="toy", target=target, device_type="cpu", priority=9)

    @hookimpl
    def windlass_op_providers(backend: str, arch: str) -> list[OpProvider]:
        del backend, arch
        works = OpProvider(op="silu_mul", name="works", target="operator:mul", priority=1)
        absent = OpProvider(op="silu_mul", name="absent", target="toy_kernels:silu", priority=2)
        return [works, absent]

    return SimpleNamespace(
        windlass_backend=windlass_backend, windlass_op_providers=windlass_op_providers
    )


def test_the_report_holds_plugins_selection_and_ops() -> None:
    hooks = {"toy": plugin_with_ops()}
    report = doctor.diagnose(BackendConfig(backend="toy"), extra=hooks)
    assert report.selected == "toy"
    assert report.problem == ""
    rows = {row.name: row for row in report.plugins}
    assert {"cpu", "cuda", "rocm", "xpu", "toy"} <= set(rows)
    assert (rows["toy"].status, rows["toy"].priority) == ("available", 9)
    ops = {row.op: row for row in report.ops}
    assert ops["rms_norm"].chosen == "reference"
    assert ops["silu_mul"].chosen == "works"
    absent, works, reference = ops["silu_mul"].providers
    assert absent.rejected == "import failed: ModuleNotFoundError: No module named 'toy_kernels'"
    assert (works.rejected, reference.name) == ("", "reference")


def test_a_backend_that_cannot_be_made_is_the_reports_problem() -> None:
    hooks = {"toy": plugin_with_ops("toy_missing:Backend")}
    report = doctor.diagnose(BackendConfig(backend="toy"), extra=hooks)
    assert report.selected == ""
    assert "No module named 'toy_missing'" in report.problem
    assert report.ops == ()


def test_json_is_the_whole_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(json=True, backend="cpu") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["selected"] == "cpu"
    cpu = next(row for row in report["plugins"] if row["name"] == "cpu")
    assert cpu["devices"][0]["total_bytes"] > 0
    assert report["torch"]["version"]


def test_a_backend_that_cannot_be_used_is_an_exit_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert doctor.run(backend="abacus") == 2
    assert "there is no backend 'abacus'" in capsys.readouterr().out.replace("\n", " ")


def test_the_table_names_each_plugin_and_why_a_provider_was_rejected() -> None:
    report = doctor.diagnose(BackendConfig(backend="toy"), extra={"toy": plugin_with_ops()})
    output = io.StringIO()
    print_report(report, Console(file=output, width=200))
    text = output.getvalue()
    for expected in ("windlass 0", "built without", "toy", "Selected (toy): toy"):
        assert expected in text
    assert "absent: import failed: ModuleNotFoundError" in text
