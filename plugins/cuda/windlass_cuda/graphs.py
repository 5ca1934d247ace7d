"""CUDA graphs in one memory pool.

All captures run on one stream and share one pool, so that the graphs of smaller batches reuse the
memory of larger ones: only one graph runs at a time.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Hashable

import torch

from windlass.backend import Graph
from windlass.errors import OutOfMemoryError, PluginError


class CudaGraph:
    """A captured graph, ready to replay on the stream of the calling thread."""

    def __init__(self, graph: torch.cuda.CUDAGraph, nodes: int) -> None:
        self._graph = graph
        self.nodes: int | None = nodes

    def replay(self) -> None:
        """Run what was captured, on the same addresses."""
        self._graph.replay()

    def close(self) -> None:
        """Give back the graph's memory."""
        self._graph.reset()


class CudaGraphPool:
    """Captures on a stream of its own into one memory pool."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._handle = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)
        self._bytes = 0

    def capture(self, fn: Callable[[], None], *, key: Hashable, warmup: int = 2) -> Graph:
        """Run `fn` `warmup` times, which compiles what it needs, then record it.

        Raises:
            PluginError: nothing was recorded.
            OutOfMemoryError: the graph's tensors do not fit beside weights and KV cache.
        """
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        try:
            with torch.cuda.stream(self._stream):
                for _ in range(warmup):
                    fn()
                self._stream.synchronize()
                graph = self._record(fn)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"no memory for the graph {key!r}: lower memory_utilization or max_num_seqs, "
                f"or set enforce_eager ({error})"
            ) from error
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        nodes = _count_nodes(graph)
        if not nodes:
            raise PluginError(f"the graph {key!r} is empty: nothing ran on the capturing stream")
        graph.instantiate()
        return CudaGraph(graph, nodes)

    def memory_bytes(self) -> int:
        """Device memory that capturing took, as torch counts it."""
        return self._bytes

    def _record(self, fn: Callable[[], None]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        before = torch.cuda.memory_reserved(self._device)
        graph.capture_begin(pool=self._handle, capture_error_mode="thread_local")
        try:
            fn()
        finally:
            with warnings.catch_warnings():
                # An empty graph is an error, where its nodes are counted.
                warnings.filterwarnings("ignore", "The CUDA Graph is empty")
                graph.capture_end()
        self._bytes += torch.cuda.memory_reserved(self._device) - before
        return graph


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
