"""Read at discovery: what the backend is and whether it can run here. No JAX, no torch."""

import platform
from importlib.util import find_spec

from windlass.plugin import Availability, BackendSpec, DeviceDescription, Status, hookimpl
from windlass.plugin.host_memory import host_memory


@hookimpl
def windlass_backend() -> BackendSpec:
    """Describe the backend; experimental, so "auto" leaves it alone."""
    return BackendSpec(
        name="jax",
        target="windlass_jax.backend:JaxBackend",
        device_type="cpu",
        priority=50,
        requires=("jax>=0.7",),
        stability="experimental",
    )


@hookimpl
def windlass_probe() -> Availability:
    """The processor is there; JAX is looked for, not imported."""
    device = DeviceDescription(
        index=0,
        name="XLA on the CPU",
        arch=platform.machine(),
        total_bytes=host_memory().total,
        unified=True,
    )
    missing = [name for name in ("jax", "jaxlib") if find_spec(name) is None]
    if missing:
        return Availability(
            status=Status.NOT_INSTALLED,
            reason=f"{' and '.join(missing)} is not installed",
            hint="pip install windlass-jax",
        )
    return Availability.available(device)
