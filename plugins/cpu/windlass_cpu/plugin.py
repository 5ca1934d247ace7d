"""The cpu plugin at discovery: what it is, and what processor it found. No torch here."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

from windlass.plugin import (
    Availability,
    BackendSpec,
    DeviceDescription,
    OpProvider,
    Status,
    hookimpl,
    installed_torch,
)
from windlass.plugin.host_memory import host_memory
from windlass.plugin.numa import NODES, numa_nodes
from windlass_cpu.built import library_path
from windlass_cpu.providers import OP_PROVIDERS

SPEC = BackendSpec(
    name="cpu", target="windlass_cpu.backend:CpuBackend", device_type="cpu", priority=100
)

# Highest first: the level is the first whose flags are all there. An Arm processor lists its
# flags under "Features", and calls 128-bit vectors "asimd".
_LEVELS = (
    ("amx", {"amx_tile", "amx_bf16"}),
    ("avx512_bf16", {"avx512f", "avx512_bf16"}),
    ("avx512", {"avx512f", "avx512bw", "avx512vl"}),
    ("avx2", {"avx2", "fma"}),
    ("sve", {"sve"}),
    ("neon", {"asimd"}),
)


@hookimpl
def windlass_backend() -> BackendSpec:
    """Describe the backend."""
    return SPEC


@hookimpl
def windlass_probe() -> Availability:
    """A processor is always there; torch may be missing."""
    return probe()


@hookimpl
def windlass_op_providers(backend: str, arch: str) -> tuple[OpProvider, ...]:
    """Offer the C++ kernels, where the package was built with them."""
    del arch
    if backend != SPEC.name or library_path() is None:
        return ()
    return OP_PROVIDERS


def probe(
    proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup"), nodes: Path = NODES
) -> Availability:
    """Describe the processor and the memory that this process may use, by NUMA node."""
    devices = _devices(proc, cgroup, nodes)
    if installed_torch() is None:
        return Availability(
            status=Status.NOT_INSTALLED,
            reason="torch is not installed",
            hint="pip install 'windlass[cpu]'",
            devices=devices,
        )
    if library_path() is None:
        return Availability.available(
            *devices,
            reason="runs on torch's operators: the C++ kernels were not built. "
            "Install a C++ compiler, then install Windlass again",
        )
    return Availability.available(*devices)


def _devices(proc: Path, cgroup: Path, nodes: Path) -> tuple[DeviceDescription, ...]:
    """One device, or one for each NUMA node where there are several."""
    facts = _cpuinfo(proc / "cpuinfo")
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    whole = DeviceDescription(
        index=0,
        name=facts.get("model name") or platform.processor() or platform.machine() or "CPU",
        arch=next((level for level, needs in _LEVELS if needs <= flags), platform.machine()),
        total_bytes=host_memory(proc, cgroup, nodes).total,
        unified=True,
    )
    found = numa_nodes(proc, nodes)
    if len(found) <= 1:
        return (whole,)
    return tuple(
        replace(
            whole,
            index=index,
            total_bytes=min(node.total, whole.total_bytes),
            numa_node=node.index,
        )
        for index, node in enumerate(found)
    )


def _cpuinfo(path: Path) -> dict[str, str]:
    """The facts of the first processor listed."""
    try:
        first = path.read_text().split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
