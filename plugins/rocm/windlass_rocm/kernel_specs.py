"""The plugin's kernels for the offline compiler: which chips, and what is read from a kernel."""

from __future__ import annotations

import re
from typing import Any

import torch

from windlass.backend.triton.attention_specs import Use, use_specs
from windlass.backend.triton.row_specs import fp8_cache_specs
from windlass.kernels.triton.launch import KernelSpec
from windlass.testing.offline import CompiledKernel
from windlass.testing.triton_kernels import TritonKernels
from windlass_rocm.arch import ARCHITECTURES, architecture_of
from windlass_rocm.tuning import RocmTuning

_USES = (
    Use(torch.float32, torch.float32, 80, 4),
    Use(torch.float32, torch.float32, 128, 4),
    Use(torch.float32, torch.float32, 256, 4),
    Use(torch.bfloat16, torch.bfloat16, 80, 4),
    Use(torch.bfloat16, torch.bfloat16, 64, 8, everything=True),
    Use(torch.bfloat16, torch.bfloat16, 256, 2, everything=True),
)
"""Heads at every border of the tables, and layers with all that may stand beside a product."""
_INSTRUCTIONS = {
    "mfma": re.compile(r"\bv_mfma_"),
    "wmma": re.compile(r"\bv_wmma_"),
    "fp8": re.compile(r"\bv_cvt_\w*fp8"),
}
_NUMBERS = {
    "registers": "vgpr_count",
    "accumulators": "agpr_count",
    "spilled_registers": "vgpr_spill_count",
    "spilled_scalars": "sgpr_spill_count",
    "spilled_bytes": "private_segment_fixed_size",
    "lanes": "wavefront_size",
}


class RocmKernels(TritonKernels):
    """All kernels of the plugin; architectures such as "gfx942"."""

    architectures = tuple(ARCHITECTURES)
    backend = "hip"
    units = 304  # of an MI300X

    def tuning(self, arch: str, units: int, device_type: str) -> RocmTuning:
        """AMD's tables."""
        return RocmTuning(arch, units, device_type)

    def specs(self, arch: str) -> list[KernelSpec]:
        """Every entry of the chip's tables."""
        return [*super().specs(arch), *use_specs(self.compiled_tuning(arch), _USES)]

    def fp8_cache_specs(self, arch: str) -> list[KernelSpec]:
        """Kernels that write an fp8 cache of the chip's own format."""
        tuning = self.compiled_tuning(arch)
        return fp8_cache_specs(tuning, tuning.fp8_dtype)

    def shared_limit(self, arch: str) -> int:
        """The local data share that a workgroup may take."""
        return architecture_of(arch).shared_bytes

    def inspect(self, kernel: Any) -> dict[str, int]:  # noqa: ANN401
        """What the metadata of the code object says, and how often some instructions occur.

        Those are matrix instructions ("mfma", "wmma") and conversions from and to fp8 ("fp8").

        LLVM, "User Guide for AMDGPU Backend", code object V5 metadata; "occupancy" is the
        compiler's remark, in wavefronts a SIMD. `registers` holds CDNA's accumulators as well.
        """
        text = kernel.asm["amdgcn"]
        facts = {name: _number(rf"\.{key}:\s+(\d+)", text) for name, key in _NUMBERS.items()}
        facts["occupancy"] = _number(r"; Occupancy: (\d+)", text)
        return facts | {name: len(found.findall(text)) for name, found in _INSTRUCTIONS.items()}

    def problems(self, compiled: CompiledKernel, arch: str) -> list[str]:
        """Also a vector register that spills, and wavefronts of the other family's size."""
        found = super().problems(compiled, arch)
        if compiled.error:
            return found
        facts, lanes = compiled.facts, architecture_of(arch).lanes
        if facts["spilled_registers"]:
            found.append(f"it spills {facts['spilled_registers']} vector registers")
        if facts["lanes"] != lanes:
            found.append(f"its wavefronts have {facts['lanes']} lanes, not {lanes}")
        return found


OFFLINE = RocmKernels()


def _number(pattern: str, text: str) -> int:
    """The first number that `pattern` finds; 0 where the chip has no such thing."""
    match = re.search(pattern, text)
    return int(match[1]) if match else 0
