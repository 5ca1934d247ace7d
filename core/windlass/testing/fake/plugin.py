"""The fake accelerator at discovery. It is installed under no entry point. No torch here."""

from __future__ import annotations

from windlass.plugin import (
    Availability,
    BackendSpec,
    DeviceDescription,
    Status,
    hookimpl,
    installed_torch,
)

SPEC = BackendSpec(
    name="fake",
    target="windlass.testing.fake.backend:FakeBackend",
    device_type="privateuseone",
    priority=0,
    stability="experimental",
)
"""Experimental, so that "auto" never takes it: who wants it names it."""

MEMORY_BYTES = 4 << 30
NUM_DEVICES = 2


@hookimpl
def windlass_backend() -> BackendSpec:
    """Describe the backend."""
    return SPEC


@hookimpl
def windlass_probe() -> Availability:
    """Two devices, wherever torch is."""
    if installed_torch() is None:
        return Availability(
            status=Status.NOT_INSTALLED,
            reason="torch is not installed",
            hint="pip install 'windlass[cpu]'",
        )
    devices = (
        DeviceDescription(index=i, name=f"fake accelerator {i}", total_bytes=MEMORY_BYTES)
        for i in range(NUM_DEVICES)
    )
    return Availability.available(*devices)
