"""The cuda plugin at discovery: which NVIDIA GPUs are here, and whether this torch drives them.

No torch here, and no CUDA context: the processes that are forked later stay usable.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from windlass.plugin import (
    Availability,
    BackendSpec,
    DeviceDescription,
    Status,
    TorchBuild,
    hookimpl,
    installed_torch,
)

if TYPE_CHECKING:
    from windlass_cuda.nvml import NvmlError

SPEC = BackendSpec(
    name="cuda",
    target="windlass_cuda.backend:CudaBackend",
    device_type="cuda",
    priority=500,
    offline="windlass_cuda.kernel_specs:OFFLINE",
)
_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"
_DRIVER_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap")
"""Of the driver on Linux, under Windows' kernel, on a Jetson."""


@hookimpl
def windlass_backend() -> BackendSpec:
    """Describe the backend."""
    return SPEC


@hookimpl
def windlass_probe() -> Availability:
    """Ask NVML for devices and compare its driver with torch."""
    pci = Path("/sys/bus/pci/devices")
    return probe(torch=installed_torch(), library=_library(pci), pci=pci, environ=os.environ)


def _library(pci: Path) -> Any | None:  # noqa: ANN401 - a shared library has no better type
    """NVML, looked for only where a GPU may be: loading libraries is half of a discovery's time."""
    linux = os.name == "posix"
    if linux and not any(map(os.path.exists, _DRIVER_FILES)) and not _nvidia_on_pci(pci):
        return None
    from windlass_cuda.nvml import load_library

    return load_library()


class _Driver(NamedTuple):
    version: str
    cuda: tuple[int, int]
    devices: tuple[DeviceDescription, ...]


def probe(
    torch: TorchBuild | None,
    library: Any | None,  # noqa: ANN401 - a shared library has no better type
    pci: Path,
    environ: Mapping[str, str],
) -> Availability:
    """Judge the machine by its torch build, its NVML and its PCI devices in sysfs.

    The driver is looked at first, so that a GPU that stands idle for want of the right torch is
    named.
    """
    if library is None:
        return _without_torch(torch, ()) or _without_driver(pci)
    from windlass_cuda.nvml import NvmlError

    try:
        driver = _driver(library, environ)
    except NvmlError as exc:
        return _without_torch(torch, ()) or _refused(exc, pci)
    missing = _without_torch(torch, driver.devices)
    if missing is not None:
        return missing
    if not driver.devices:
        return _no_visible_device(environ)
    return _compare(str(torch.runtime("cuda") if torch else ""), driver)


def _driver(library: Any, environ: Mapping[str, str]) -> _Driver:  # noqa: ANN401
    from windlass_cuda.nvml import Nvml

    with Nvml(library) as nvml:
        return _Driver(
            version=nvml.driver_version(),
            cuda=nvml.cuda_version(),
            devices=nvml.visible_devices(environ.get("CUDA_VISIBLE_DEVICES")),
        )


def _without_torch(
    torch: TorchBuild | None, devices: tuple[DeviceDescription, ...]
) -> Availability | None:
    if torch is None:
        reason = "torch is not installed"
    elif torch.runtime("cuda"):
        return None
    elif torch.runtime("hip"):
        reason = f"torch {torch.version} is a ROCm build, not a CUDA one"
    else:
        reason = f"torch {torch.version} is built without CUDA"
    return Availability(
        status=Status.NOT_INSTALLED,
        reason=reason,
        hint="install a CUDA build of torch (see pytorch.org), then pip install 'windlass[cuda]'",
        devices=devices,
    )


def _without_driver(pci: Path) -> Availability:
    if _nvidia_on_pci(pci):
        return Availability(
            status=Status.NO_DEVICE,
            reason="an NVIDIA GPU is on the PCI bus, but its driver's libnvidia-ml.so.1 is not",
            hint="install the NVIDIA driver, or start the container with access to GPUs",
        )
    return Availability(
        status=Status.NO_DEVICE,
        reason="neither an NVIDIA GPU nor its driver is here",
    )


def _refused(error: NvmlError, pci: Path) -> Availability:
    from windlass_cuda.nvml import DRIVER_NOT_LOADED

    if error.code == DRIVER_NOT_LOADED and not _nvidia_on_pci(pci):
        return Availability(
            status=Status.NO_DEVICE,
            reason="the driver's library is installed, but there is no NVIDIA GPU",
        )
    return Availability(
        status=Status.BROKEN,
        reason=f"the NVIDIA driver does not answer: {error}",
        hint="see whether nvidia-smi works; a driver updated without a restart is a usual cause",
    )


def _no_visible_device(environ: Mapping[str, str]) -> Availability:
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return Availability(status=Status.NO_DEVICE, reason="the driver lists no GPU")
    return Availability(
        status=Status.NO_DEVICE,
        reason=f"CUDA_VISIBLE_DEVICES={visible!r} leaves no GPU visible",
        hint="unset it, or name indices or UUIDs as nvidia-smi -L prints them",
    )


def _compare(built_for: str, driver: _Driver) -> Availability:
    """Minor versions are compatible within a major one; an older major cannot run."""
    if driver.cuda[0] < int(built_for.partition(".")[0]):
        supported = ".".join(map(str, driver.cuda))
        return Availability(
            status=Status.BROKEN,
            reason=f"torch is built for CUDA {built_for}, driver {driver.version} supports "
            f"CUDA {supported} at most",
            hint=f"update the NVIDIA driver, or install a torch built for CUDA {driver.cuda[0]}",
            devices=driver.devices,
        )
    return Availability.available(*driver.devices)


def _nvidia_on_pci(pci: Path) -> bool:
    return any(
        _read(device / "vendor") == _NVIDIA_VENDOR
        and _read(device / "class").startswith(_DISPLAY_CLASS)
        for device in pci.glob("*")
    )


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
