"""The backend "ipex" at discovery: Intel Extension for PyTorch, for those who ask for it by name.

The extension is archived and has known security issues
(github.com/intel/intel-extension-for-pytorch), so nothing here depends on it and it is never chosen
by "auto". It serves torch 2.8 alone, in an XPU or a CPU build, and the plugin follows the build. It
offers no ops: on a processor the extension's norms are no faster than torch's, and its SwiGLU is
torch's, compiled at the first call. No torch here.
"""

from __future__ import annotations

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
from windlass_xpu import plugin as xpu

NAME = "ipex"
_REQUIRES = ("torch==2.8.*", "intel-extension-for-pytorch==2.8.*")


@hookimpl
def windlass_backend() -> BackendSpec:
    """Describe the backend."""
    return spec(installed_torch())


@hookimpl
def windlass_probe() -> Availability:
    """Look for an Intel GPU, or for the processor that the extension's CPU build needs."""
    return probe(installed_torch())


def spec(torch: TorchBuild | None) -> BackendSpec:
    """The backend for a torch build: on a GPU with XPU, else on the processor."""
    return BackendSpec(
        name=NAME,
        target="windlass_xpu.ipex:IpexBackend",
        device_type="xpu" if _has_xpu(torch) else "cpu",
        priority=50,
        requires=_REQUIRES,
        stability="experimental",
    )


def probe(torch: TorchBuild | None, cpuinfo: Path = Path("/proc/cpuinfo")) -> Availability:
    """Whether the device is here. Versions are compared before, by `BackendSpec.requires`."""
    if _has_xpu(torch):
        return xpu.windlass_probe()
    processor = DeviceDescription(
        index=0, name="CPU", total_bytes=host_memory().total, unified=True
    )
    if "avx2" not in _processor_flags(cpuinfo):
        # Without this the extension ends the process when it is imported.
        return Availability(
            status=Status.NO_DEVICE,
            reason="Intel Extension for PyTorch needs a processor with AVX2",
            hint="use the backend cpu",
        )
    return Availability.available(processor, reason="archived by Intel, with known security issues")


def _has_xpu(torch: TorchBuild | None) -> bool:
    return torch is not None and bool(torch.runtime("xpu"))


def _processor_flags(cpuinfo: Path) -> frozenset[str]:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    flags = (line.partition(":")[2] for line in lines if line.startswith("flags"))
    return frozenset(next(flags, "").split())
