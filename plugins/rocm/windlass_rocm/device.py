"""An AMD GPU: torch's accelerator device, what its kernels are launched with, and graphs."""

from __future__ import annotations

import torch

from windlass.backend import AcceleratorDevice
from windlass_rocm.arch import base_name
from windlass_rocm.graphs import graph_pool
from windlass_rocm.tuning import RocmTuning


def tuning_of(index: int | None = None) -> RocmTuning:
    """The tables for the GPU with this index, or without it for the current one.

    Raises:
        PluginError: the GPU has no matrix instructions.
    """
    properties = torch.cuda.get_device_properties(index)
    return RocmTuning(base_name(properties.gcnArchName), properties.multi_processor_count)


class RocmDevice(AcceleratorDevice):
    """The GPU with this index among those that the process sees; torch calls it "cuda"."""

    def __init__(self, index: int) -> None:
        super().__init__("cuda", index, make_graph_pool=graph_pool)
        self.tuning = tuning_of(index)
