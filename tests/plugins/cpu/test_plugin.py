"""The cpu plugin's probe over recorded /proc and control group files."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from windlass.plugin import DeviceDescription, Status
from windlass_cpu.plugin import SPEC, probe, windlass_op_providers

X86 = """\
processor\t: 0
model name\t: Acme Xeon 9000
flags\t\t: fpu sse4_2 {flags}

processor\t: 1
"""
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd {flags}\n"


def describe(tmp_path: Path, cpuinfo: str, *, limit: str = "max") -> DeviceDescription:
    """The device that the probe describes on a machine of 64 GiB with this cpuinfo."""
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    cgroup.mkdir()
    (proc / "cpuinfo").write_text(cpuinfo)
    (proc / "meminfo").write_text(f"MemTotal: {64 << 20} kB\nMemAvailable: {32 << 20} kB\n")
    (proc / "self/cgroup").write_text("0::/\n")
    (cgroup / "memory.max").write_text(limit)
    availability = probe(proc, cgroup, tmp_path / "nodes")
    assert availability.status is Status.AVAILABLE
    (device,) = availability.devices
    return device


@pytest.mark.parametrize(
    ("cpuinfo", "flags", "arch"),
    [
        (X86, "avx avx2 fma", "avx2"),
        (X86, "avx2 fma avx512f avx512bw avx512vl", "avx512"),
        (X86, "avx2 fma avx512f avx512bw avx512vl avx512_bf16", "avx512_bf16"),
        (X86, "avx2 fma avx512f avx512bw avx512vl avx512_bf16 amx_bf16 amx_tile", "amx"),
        (X86, "avx", platform.machine()),
        (ARM, "", "neon"),
        (ARM, "sve sve2", "sve"),
    ],
)
def test_the_architecture_is_the_highest_level_whose_flags_are_all_there(
    tmp_path: Path, cpuinfo: str, flags: str, arch: str
) -> None:
    assert describe(tmp_path, cpuinfo.format(flags=flags)).arch == arch


def test_the_processor_is_called_what_the_kernel_calls_it(tmp_path: Path) -> None:
    assert describe(tmp_path, X86.format(flags="")).name == "Acme Xeon 9000"


@pytest.mark.parametrize(("limit", "total"), [("max", 64 << 30), (str(8 << 30), 8 << 30)])
def test_memory_is_the_machines_or_the_containers(tmp_path: Path, limit: str, total: int) -> None:
    device = describe(tmp_path, X86.format(flags="avx2 fma"), limit=limit)
    assert device.total_bytes == total
    assert device.unified


def test_a_machine_without_proc_still_has_a_processor(tmp_path: Path) -> None:
    (device,) = probe(tmp_path / "proc", tmp_path / "cgroup", tmp_path / "nodes").devices
    assert device.name


def test_without_torch_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windlass_cpu.plugin.installed_torch", lambda: None)
    said = probe()
    assert said.status is Status.NOT_INSTALLED
    assert "windlass[cpu]" in said.hint


def test_it_has_the_lowest_priority_of_the_in_tree_plugins() -> None:
    assert SPEC.priority == 100


def test_without_kernels_it_says_so_and_offers_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windlass_cpu.plugin.library_path", lambda: None)
    said = probe()
    assert said.status is Status.AVAILABLE
    assert "C++ kernels were not built" in said.reason
    assert windlass_op_providers("cpu", "") == ()


def test_kernels_are_offered_to_the_cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windlass_cpu.plugin.library_path", lambda: "/somewhere/_kernels.so")
    offered = {provider.op for provider in windlass_op_providers("cpu", "")}
    assert {"pack_weight", "rms_norm", "sample"} <= offered
    assert windlass_op_providers("cuda", "") == ()
