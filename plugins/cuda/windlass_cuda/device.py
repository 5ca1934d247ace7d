"""An NVIDIA GPU: torch's accelerator device, what its kernels are launched with, and graphs."""

from __future__ import annotations

import torch

from windlass.backend import AcceleratorDevice
from windlass_cuda.graphs import graph_pool
from windlass_cuda.tuning import CudaTuning


def tuning_of(index: int | None = None) -> CudaTuning:
    """The tables for the GPU with this index, or without it for the current one."""
    properties = torch.cuda.get_device_properties(index)
    arch = f"sm_{properties.major}{properties.minor}"
    return CudaTuning(arch, properties.multi_processor_count)


class CudaDevice(AcceleratorDevice):
    """The GPU with this index among those that the process sees."""

    def __init__(self, index: int) -> None:
        super().__init__("cuda", index, make_graph_pool=graph_pool)
        self.tuning = tuning_of(index)
