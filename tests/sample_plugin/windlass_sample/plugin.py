"""Read at discovery: what the backend is, whether it can run here, which ops it brings."""

from windlass.plugin import Availability, BackendSpec, DeviceDescription, OpProvider, hookimpl


@hookimpl
def windlass_backend() -> BackendSpec:
    """Describe the backend; a priority below the cpu plugin's, so that "auto" leaves it alone."""
    return BackendSpec(
        name="sample",
        target="windlass_sample.backend:SampleBackend",
        device_type="cpu",
        priority=50,
    )


@hookimpl
def windlass_probe() -> Availability:
    """Look for the device, without torch."""
    return Availability.available(DeviceDescription(index=0, name="sample device", arch="s1"))


@hookimpl
def windlass_op_providers(backend: str, arch: str) -> list[OpProvider]:
    """Offer one op; all others run their torch reference."""
    del backend, arch
    return [OpProvider(op="silu_mul", name="sample", target="windlass_sample.backend:silu_mul")]
