"""Read at discovery: what the backend is, whether it can run here, which ops it brings."""

from __future__ import annotations

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


@hookimpl
def windlass_backend() -> BackendSpec:
    """Describe the backend."""
    return BackendSpec(
        name="compat",
        target="windlass_compat.backend:CompatBackend",
        device_type="cpu",
        priority=40,
        api=(1, 0),
        requires=("torch>=2.11",),
        stability="stable",
    )


@hookimpl
def windlass_probe() -> Availability:
    """Look for the device, without torch."""
    return probe(Path("/proc/meminfo"))


@hookimpl
def windlass_op_providers(backend: str, arch: str) -> list[OpProvider]:
    """Offer one op, for this backend and one architecture of it."""
    if backend != "compat" or arch != "c1":
        return []
    return [
        OpProvider(
            op="rms_norm",
            name="compat",
            target="windlass_compat.ops:rms_norm",
            supports="windlass_compat.ops:supports_rms_norm",
            priority=10,
            arch=frozenset({"c1"}),
        )
    ]


def probe(meminfo: Path) -> Availability:
    """One device with the machine's memory."""
    if installed_torch() is None:
        return Availability(
            status=Status.NOT_INSTALLED, reason="torch is not installed", hint="pip install torch"
        )
    device = DeviceDescription(
        index=0, name="compat device", arch="c1", total_bytes=_total_bytes(meminfo), unified=True
    )
    return Availability.available(device)


def _total_bytes(meminfo: Path) -> int:
    try:
        first = meminfo.read_text().splitlines()[0]
    except OSError:
        return 0
    return int(first.split()[1]) * 1024
