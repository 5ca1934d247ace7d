"""An NVIDIA GPU: torch's accelerator device, and graphs."""

from __future__ import annotations

import functools

import torch

from windlass.backend import AcceleratorDevice, GraphPool
from windlass_cuda.graphs import CudaGraphPool


class CudaDevice(AcceleratorDevice):
    """The GPU with this index among those that the process sees."""

    def __init__(self, index: int) -> None:
        super().__init__("cuda", index)
        properties = torch.cuda.get_device_properties(index)
        self.arch = f"sm_{properties.major}{properties.minor}"
        self.multiprocessors: int = properties.multi_processor_count

    def graph_pool(self) -> GraphPool | None:
        """The device's one pool."""
        return self._pool

    @functools.cached_property
    def _pool(self) -> CudaGraphPool:
        return CudaGraphPool(self.torch_device)
