"""The plugin's kernels for the offline compiler: which chips, and what is read from a kernel."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton

from windlass.backend.triton.row_specs import fp8_cache_specs
from windlass.kernels.triton.launch import KernelSpec
from windlass.testing.offline import Target
from windlass.testing.triton_kernels import TritonKernels
from windlass_cuda.tuning import CudaTuning

_KIB = 1024
_SHARED_BYTES = {
    "sm_80": 163 * _KIB,
    "sm_86": 99 * _KIB,
    "sm_89": 99 * _KIB,
    "sm_90": 227 * _KIB,
    "sm_100": 227 * _KIB,
    "sm_120": 99 * _KIB,
}
"""Shared memory that one block may take: CUDA C++ programming guide, "Compute Capabilities"."""
_USAGE = ("REG", "STACK", "LOCAL")


class CudaKernels(TritonKernels):
    """All kernels of the plugin; architectures such as "sm_90"."""

    architectures = ("sm_80", "sm_90", "sm_100")
    backend = "cuda"
    units = 132  # of an H100

    def tuning(self, arch: str, units: int, device_type: str) -> CudaTuning:
        """NVIDIA's tables."""
        return CudaTuning(arch, units, device_type)

    def target(self, arch: str) -> Target:
        """Triton names a chip by its number."""
        return (self.backend, int(arch.removeprefix("sm_")), CudaTuning.lanes)

    def fp8_cache_specs(self, arch: str) -> list[KernelSpec]:
        """Kernels that write an fp8 cache, which chips without fp8 must refuse."""
        return fp8_cache_specs(self.compiled_tuning(arch), torch.float8_e4m3fn)

    def shared_limit(self, arch: str) -> int:
        """What a block may take, with an opt-in above 48 KiB, which Triton does."""
        return _SHARED_BYTES[arch]

    def inspect(self, kernel: Any) -> dict[str, int]:  # noqa: ANN401
        """Registers a thread, spilled bytes, and matrix instructions.

        "wgmma", "mma" and "tcgen05" count the instructions of each generation. What does not fit
        the registers lies on the stack (CUDA Binary Utilities, `cuobjdump --dump-resource-usage`).
        """
        text = kernel.asm["ptx"]
        facts = {
            "wgmma": len(re.findall(r"\bwgmma\.mma_async", text)),
            "mma": len(re.findall(r"\bmma\.sync", text)),
            "tcgen05": len(re.findall(r"\btcgen05\.mma", text)),
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kernel.cubin"
            path.write_bytes(kernel.asm["cubin"])
            usage = subprocess.run(
                [str(_cuobjdump()), "--dump-resource-usage", str(path)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        found = {name: int(re.findall(rf"\b{name}:(\d+)", usage)[-1]) for name in _USAGE}
        return {
            **facts,
            "registers": found["REG"],
            "spilled_bytes": found["STACK"] + found["LOCAL"],
        }


OFFLINE = CudaKernels()


def _cuobjdump() -> Path:
    """The tool that comes with Triton."""
    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
