"""An Intel GPU: torch's accelerator device, what its kernels are launched with, and graphs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from packaging.version import Version

from windlass.backend import AcceleratorDevice, GraphPool, GraphSupport, MemoryInfo
from windlass.backend.accelerator_graphs import AcceleratorGraphPool
from windlass.plugin.host_memory import host_memory
from windlass_xpu.chips import Chip, Family, chip_of, family_by_features
from windlass_xpu.tuning import XpuTuning

_FIRST_WITH_GRAPHS = Version("2.14.dev0")
_EXECUTION_UNITS = 8
"""Of an Xe core, for a driver that does not count the cores themselves."""


def graph_support(torch_version: str) -> GraphSupport:
    """Which steps a torch can capture on XPU.

    Before 2.14 it records through SYCL, which refuses events of other queues and gave wrong
    results on Ponte Vecchio; from then on through Level Zero.
    """
    has = Version(torch_version) >= _FIRST_WITH_GRAPHS
    return GraphSupport.DECODE_UNIFORM if has else GraphSupport.NONE


def tuning_of(index: int | None = None) -> XpuTuning:
    """The tables for the GPU with this index, or without it for the current one."""
    properties = torch.xpu.get_device_properties(index)
    return XpuTuning(family_of(properties).value, units_of(properties))


def family_of(properties: Any) -> Family:  # noqa: ANN401 - torch has this class in XPU builds
    """By the PCI id, and for a chip that is not known by what it says it can."""
    chip = _chip(properties)
    if chip is not None:
        return chip.family
    multiplies = properties.has_subgroup_matrix_multiply_accumulate
    return family_by_features(
        matrix_lanes=min(properties.sub_group_sizes) if multiplies else 0,
        block_loads=getattr(properties, "has_subgroup_2d_block_io", True),
    )


def units_of(properties: Any) -> int:  # noqa: ANN401
    """Xe cores."""
    cores = int(properties.gpu_subslice_count)
    return cores or max(properties.gpu_eu_count // _EXECUTION_UNITS, 1)


def is_integrated(properties: Any) -> bool:  # noqa: ANN401
    """Whether the GPU has no memory of its own; a torch that does not say is asked for the chip."""
    said = getattr(properties, "is_integrated_gpu", None)
    if said is not None:
        return bool(said)
    chip = _chip(properties)
    return chip is not None and not chip.discrete


def _chip(properties: Any) -> Chip | None:  # noqa: ANN401
    """The known chip; an older torch does not tell the PCI id."""
    return chip_of(getattr(properties, "device_id", 0))


class XpuDevice(AcceleratorDevice):
    """The GPU with this index among those that the process sees."""

    def __init__(self, index: int) -> None:
        captures = graph_support(torch.__version__) is not GraphSupport.NONE
        super().__init__("xpu", index, make_graph_pool=_graph_pool if captures else None)
        properties = torch.xpu.get_device_properties(index)
        self.tuning = tuning_of(index)
        self.integrated = is_integrated(properties)
        self.has_bfloat16 = getattr(properties, "has_bfloat16_conversions", True)

    def memory(self) -> MemoryInfo:
        """The driver's numbers; an integrated GPU has no more than this process may use of the
        machine's memory."""
        memory = super().memory()
        if not self.integrated:
            return memory
        host = host_memory()
        total, free = min(memory.total, host.total), min(memory.free, host.available)
        return replace(memory, total=total, free=free)


def _graph_pool(device: torch.device) -> GraphPool:
    """A pool of graphs whose nodes nothing counts."""
    return AcceleratorGraphPool(
        device,
        module=torch.xpu,
        graph_class=torch.xpu.XPUGraph,
        count_nodes=lambda graph: None,
    )
