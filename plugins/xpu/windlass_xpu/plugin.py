"""The xpu plugin at discovery: which Intel GPUs are here, and whether this torch drives them.

No torch here, and no Level Zero context.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from windlass.plugin import (
    Availability,
    BackendSpec,
    DeviceDescription,
    Status,
    TorchBuild,
    hookimpl,
    installed_torch,
)
from windlass.plugin.host_memory import host_memory
from windlass_xpu.sysfs import RenderNode, visible_nodes

SPEC = BackendSpec(
    name="xpu",
    target="windlass_xpu.backend:XpuBackend",
    device_type="xpu",
    priority=500,
    offline="windlass_xpu.kernel_specs:TABLES",
)
_LOADER = "libze_loader.so.1"


@hookimpl
def windlass_backend() -> BackendSpec:
    """Describe the backend."""
    return SPEC


@hookimpl
def windlass_probe() -> Availability:
    """Read the GPUs from sysfs, look for Level Zero and compare with torch."""
    return probe(
        torch=installed_torch(),
        drm=Path("/sys/class/drm"),
        device_files=Path("/dev/dri"),
        loader_present=lambda: _loads(_LOADER),
        environ=os.environ,
        host_bytes=host_memory().total,
    )


def probe(
    torch: TorchBuild | None,
    drm: Path,
    device_files: Path,
    loader_present: Callable[[], bool],
    environ: Mapping[str, str],
    host_bytes: int = 0,
) -> Availability:
    """Judge the machine by its torch build, what the kernel shows and the Level Zero loader.

    `host_bytes` is the memory that an integrated GPU shares. `loader_present` is asked only where
    there is a GPU: loading libraries takes half of a discovery's time.
    """
    nodes = visible_nodes(drm, environ, host_bytes)
    devices = tuple(node.device for node in nodes)
    missing = _without_torch(torch, devices)
    if missing is not None:
        return missing
    if not devices:
        return _without_device(environ)
    if not loader_present():
        return Availability(
            status=Status.BROKEN,
            reason=f"an Intel GPU is here, but the Level Zero loader ({_LOADER}) is not",
            hint="install Intel's compute runtime with its Level Zero packages",
            devices=devices,
        )
    return _access(nodes, device_files, devices)


def _without_torch(
    torch: TorchBuild | None, devices: tuple[DeviceDescription, ...]
) -> Availability | None:
    if torch is not None and torch.runtime("xpu"):
        return None
    if torch is None:
        reason = "torch is not installed"
    else:
        reason = f"torch {torch.version} is built without XPU"
    return Availability(
        status=Status.NOT_INSTALLED,
        reason=reason,
        hint="install an XPU build of torch (see pytorch.org), then pip install 'windlass[xpu]'",
        devices=devices,
    )


def _without_device(environ: Mapping[str, str]) -> Availability:
    mask = environ.get("ZE_AFFINITY_MASK")
    if mask is not None:
        reason = f"no Intel GPU is left visible by ZE_AFFINITY_MASK={mask!r}"
    else:
        reason = "no Intel GPU with the kernel driver xe or i915 was found"
    return Availability(status=Status.NO_DEVICE, reason=reason)


def _access(
    nodes: Sequence[RenderNode], device_files: Path, devices: tuple[DeviceDescription, ...]
) -> Availability:
    for node in nodes:
        file = device_files / node.file
        if node.file and not os.access(file, os.R_OK | os.W_OK):
            return Availability(
                status=Status.BROKEN,
                reason=f"this user may not open {file}, or it is not there",
                hint="add the user to the group render; in a container, pass --device /dev/dri",
                devices=devices,
            )
    return Availability.available(*devices)


def _loads(library: str) -> bool:
    import ctypes

    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
