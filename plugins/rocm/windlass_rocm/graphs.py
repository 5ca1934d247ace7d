"""HIP graphs: the shared pool with torch's graph class, and how to count a graph's nodes.

torch's ROCm build keeps the names of CUDA: `torch.cuda.CUDAGraph` captures with HIP.
"""

from __future__ import annotations

import ctypes
import re
from functools import cache
from pathlib import Path

import torch

from windlass.backend import GraphPool
from windlass.backend.accelerator_graphs import AcceleratorGraphPool
from windlass.errors import PluginError

_LIBRARY = re.compile(r"/\S*/libamdhip64\.so\S*")
_MAPPINGS = Path("/proc/self/maps")


def graph_pool(device: torch.device) -> GraphPool:
    """A pool on `device`; other threads may do meanwhile what cannot be captured."""
    return AcceleratorGraphPool(
        device,
        module=torch.cuda,
        graph_class=torch.cuda.CUDAGraph,
        count_nodes=_count_nodes,
        capture_arguments={"capture_error_mode": "thread_local"},
    )


def loaded_runtime(mappings: str) -> str:
    """The path of the HIP runtime among a process's memory mappings (proc_pid_maps(5)).

    Another copy than torch's would not know its graphs, so it is not looked up by name.

    Raises:
        PluginError: none is loaded.
    """
    match = _LIBRARY.search(mappings)
    if match is None:
        raise PluginError("libamdhip64 is not loaded: torch is not a ROCm build")
    return match[0]


def count_nodes(runtime: ctypes.CDLL, graph: int) -> int:
    """Recorded operations of a `hipGraph_t`: `hipGraphGetNodes` of the HIP runtime API.

    Raises:
        PluginError: the runtime reports an error.
    """
    count = ctypes.c_size_t()
    code = runtime.hipGraphGetNodes(ctypes.c_void_p(graph), None, ctypes.byref(count))
    if code:
        raise PluginError(f"hipGraphGetNodes failed with HIP error {code}")
    return count.value


def _count_nodes(graph: torch.cuda.CUDAGraph) -> int:
    return count_nodes(_runtime(), graph.raw_cuda_graph())


@cache
def _runtime() -> ctypes.CDLL:
    return ctypes.CDLL(loaded_runtime(_MAPPINGS.read_text()))
