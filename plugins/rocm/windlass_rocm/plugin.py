"""The rocm plugin at discovery: which AMD GPUs are here, and whether this torch drives them.

No torch here, and no HIP context. torch calls its device "cuda" on ROCm too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from windlass.errors import PluginError
from windlass.plugin import (
    Availability,
    BackendSpec,
    DeviceDescription,
    OpProvider,
    Status,
    TorchBuild,
    hookimpl,
    installed_torch,
)
from windlass_rocm.arch import architecture_of
from windlass_rocm.kfd import read_text, visible_devices
from windlass_rocm.providers import aiter_installed, aiter_providers

SPEC = BackendSpec(
    name="rocm",
    target="windlass_rocm.backend:RocmBackend",
    device_type="cuda",
    priority=500,
    offline="windlass_rocm.kernel_specs:OFFLINE",
)


class SystemPaths(NamedTuple):
    """Where the kernel shows AMD GPUs."""

    topology: Path = Path("/sys/class/kfd/kfd/topology")
    drm: Path = Path("/sys/class/drm")
    driver_version: Path = Path("/sys/module/amdgpu/version")
    device: Path = Path("/dev/kfd")


@hookimpl
def windlass_backend() -> BackendSpec:
    """Describe the backend."""
    return SPEC


@hookimpl
def windlass_probe() -> Availability:
    """Read the GPUs from sysfs and compare with torch."""
    return probe(torch=installed_torch(), paths=SystemPaths(), environ=os.environ)


@hookimpl
def windlass_op_providers(backend: str, arch: str) -> tuple[OpProvider, ...]:
    """Offer aiter's ops, where it is installed."""
    return aiter_providers(arch) if backend == SPEC.name and aiter_installed() else ()


def probe(torch: TorchBuild | None, paths: SystemPaths, environ: Mapping[str, str]) -> Availability:
    """Judge the machine by its torch build and what the kernel shows."""
    driver = read_text(paths.driver_version)
    devices = visible_devices(paths.topology, paths.drm, environ, driver)
    missing = _without_torch(torch, devices)
    if missing is not None:
        return missing
    if not devices:
        return _without_device(paths, environ)
    return _without_kernels(devices) or _access(paths.device, devices, _ignored(environ))


def _without_torch(
    torch: TorchBuild | None, devices: tuple[DeviceDescription, ...]
) -> Availability | None:
    if torch is None:
        reason = "torch is not installed"
    elif torch.runtime("hip"):
        return None
    elif torch.runtime("cuda"):
        reason = f"torch {torch.version} is a CUDA build, not a ROCm one"
    else:
        reason = f"torch {torch.version} is built without ROCm"
    return Availability(
        status=Status.NOT_INSTALLED,
        reason=reason,
        hint="install a ROCm build of torch (see pytorch.org), then pip install 'windlass[rocm]'",
        devices=devices,
    )


def _without_device(paths: SystemPaths, environ: Mapping[str, str]) -> Availability:
    if not paths.topology.exists():
        return Availability(
            status=Status.NO_DEVICE,
            reason=f"no amdgpu driver with compute support ({paths.topology} is not there)",
        )
    names = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    limits = ", ".join(f"{name}={environ[name]!r}" for name in names if name in environ)
    reason = f"no AMD GPU is left visible by {limits}" if limits else "no AMD GPU was found"
    return Availability(status=Status.NO_DEVICE, reason=reason)


def _without_kernels(devices: tuple[DeviceDescription, ...]) -> Availability | None:
    """Not usable: the first GPU, which a process takes unless told otherwise, has no tables."""
    try:
        architecture_of(devices[0].arch)
    except PluginError as error:
        return Availability(
            status=Status.NO_DEVICE,
            reason=str(error),
            hint="choose another GPU with HIP_VISIBLE_DEVICES" if len(devices) > 1 else "",
            devices=devices,
        )
    return None


def _ignored(environ: Mapping[str, str]) -> str:
    """What to say where two variables that mean the same say different things."""
    hip, cuda = (environ.get(name) for name in ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"))
    if hip is None or cuda is None or hip == cuda:
        return ""
    return f"HIP_VISIBLE_DEVICES={hip!r} counts, and CUDA_VISIBLE_DEVICES={cuda!r} does not"


def _access(device: Path, devices: tuple[DeviceDescription, ...], reason: str) -> Availability:
    if not device.exists():
        return Availability(
            status=Status.NO_DEVICE,
            reason=f"an AMD GPU is here, but {device} is not",
            hint="start the container with --device /dev/kfd --device /dev/dri",
            devices=devices,
        )
    if not os.access(device, os.R_OK | os.W_OK):
        return Availability(
            status=Status.BROKEN,
            reason=f"this user may not open {device}",
            hint="add the user to the groups render and video",
            devices=devices,
        )
    return Availability.available(*devices, reason=reason)
