"""L7: kernels are compiled without a device, and each fault of one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from windlass.testing.conformance import Outcome, Target, prove

pytest.importorskip("triton.backends.nvidia")

PLUGIN = """
from windlass.plugin import Availability, BackendSpec, Status, hookimpl

@hookimpl
def windlass_backend():
    return BackendSpec(
        name="nowhere", target="nowhere:Nowhere", device_type="nowhere", priority=1,
        offline="{offline}",
    )

@hookimpl
def windlass_probe():
    return Availability(status=Status.NO_DEVICE, reason="it is not here")
"""

KERNELS = """
import triton
import triton.language as tl
from windlass.kernels.triton.launch import KernelSpec, LaunchConfig
from windlass.testing.offline import KernelTables, OfflineKernels

TABLES = KernelTables()

@triton.jit
def double_kernel(x, out, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, 2 * tl.load(x + at))

@triton.jit
def sum_kernel(x, out, BLOCK: tl.constexpr):
    tl.store(out + tl.program_id(0), tl.sum(tl.load(x + tl.arange(0, BLOCK)), 0))

def spec(name, function=double_kernel, block=128, warps=1, expects="stores"):
    return KernelSpec(
        name=name,
        function=function,
        signature=dict(x="*fp32", out="*fp32", BLOCK="constexpr"),
        constants=dict(BLOCK=block),
        config=LaunchConfig(num_warps=warps),
        expects=frozenset({expects}),
    )

class Kernels(OfflineKernels):
    architectures = ("sm_80",)
    def target(self, arch):
        return ("cuda", int(arch[3:]), 32)
    def specs(self, arch):
        return [
            spec("double"),
            spec("does not compile", block=100),
            spec("has no wgmma", expects="wgmma"),
            spec("spills", warps=4),
            spec("takes too much", sum_kernel, warps=2),
        ]
    def inspect(self, kernel):
        spilled = 8 if kernel.metadata.num_warps == 4 else 0
        return dict(spilled_bytes=spilled, stores=kernel.asm["ptx"].count("st.global"))
    def shared_limit(self, arch):
        return 0

KERNELS = Kernels()
"""


def outcomes(folder: Path, monkeypatch: pytest.MonkeyPatch, offline: str) -> dict[str, Outcome]:
    (folder / "nowhere_plugin.py").write_text(PLUGIN.format(offline=offline))
    (folder / "kernels.py").write_text(KERNELS)
    monkeypatch.syspath_prepend(folder)
    found = prove(Target("nowhere", "nowhere_plugin"), ["L7"]).outcomes
    return {outcome.case: outcome for outcome in found}


def test_kernels_are_examined_where_there_is_no_device_and_each_fault_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = outcomes(tmp_path, monkeypatch, "kernels:KERNELS")
    assert found.pop("sm_80 compiles").status == "passed"
    good = found.pop("sm_80 double")
    assert good.status == "passed"
    assert good.measured["stores"] > 0
    for case, reason in {
        "sm_80 does not compile": "it does not compile: ",
        "sm_80 has no wgmma": "it has no wgmma instruction",
        "sm_80 spills": "it spills 8 B a lane",
        "sm_80 takes too much": "B of shared memory, of 0",
    }.items():
        outcome = found.pop(case)
        assert outcome.status == "failed"
        assert reason in outcome.reason
    assert found == {}


def test_a_plugin_may_have_no_such_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (outcome,) = outcomes(tmp_path, monkeypatch, "").values()
    assert outcome.status == "absent"


def test_tables_alone_do_not_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (outcome,) = outcomes(tmp_path, monkeypatch, "kernels:TABLES").values()
    assert (outcome.status, "where their device is" in outcome.reason) == ("absent", True)


def test_what_is_named_must_be_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (outcome,) = outcomes(tmp_path, monkeypatch, "kernels:double_kernel").values()
    assert outcome.status == "failed"
    assert "is no KernelTables" in outcome.reason
