"""CUDA graphs: the shared pool with torch.cuda's graph class, and how to count a graph's nodes."""

from __future__ import annotations

import ctypes

import torch

from windlass.backend import GraphPool
from windlass.backend.accelerator_graphs import AcceleratorGraphPool
from windlass.errors import PluginError


def graph_pool(device: torch.device) -> GraphPool:
    """A pool on `device`; other threads may do meanwhile what cannot be captured."""
    return AcceleratorGraphPool(
        device,
        module=torch.cuda,
        graph_class=torch.cuda.CUDAGraph,
        count_nodes=_count_nodes,
        capture_arguments={"capture_error_mode": "thread_local"},
    )


def _count_nodes(graph: torch.cuda.CUDAGraph) -> int:
    """Recorded operations: `cuGraphGetNodes` of the CUDA driver API."""
    count = ctypes.c_size_t()
    driver = ctypes.CDLL("libcuda.so.1")
    code = driver.cuGraphGetNodes(
        ctypes.c_void_p(graph.raw_cuda_graph()), None, ctypes.byref(count)
    )
    if code:
        raise PluginError(f"cuGraphGetNodes failed with CUDA error {code}")
    return count.value
