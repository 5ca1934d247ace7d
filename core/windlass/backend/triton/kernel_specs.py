"""Every kernel of a tuning with types and sizes of real models, to be compiled for any chip."""

from __future__ import annotations

from dataclasses import replace

from windlass.backend.triton.attention_specs import attention_kernel_specs
from windlass.backend.triton.expert_specs import expert_kernel_specs
from windlass.backend.triton.linear_specs import linear_kernel_specs
from windlass.backend.triton.quantized_specs import quantized_kernel_specs
from windlass.backend.triton.row_specs import row_kernel_specs
from windlass.backend.triton.tuning import TritonTuning
from windlass.kernels.triton.launch import KernelSpec


def kernel_specs(tuning: TritonTuning) -> list[KernelSpec]:
    """All kernels as they are launched on the tuning's chip."""
    specs = [
        *row_kernel_specs(tuning),
        *linear_kernel_specs(tuning),
        *quantized_kernel_specs(tuning),
        *expert_kernel_specs(tuning),
        *attention_kernel_specs(tuning),
    ]
    return [replace(spec, may_spill=spec.name in tuning.may_spill) for spec in specs]
