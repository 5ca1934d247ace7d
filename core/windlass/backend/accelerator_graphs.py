"""Captured steps through a device module of torch, all graphs in one memory pool.

All captures run on one stream and share one pool, so that the graphs of smaller batches reuse the
memory of larger ones: only one graph runs at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import torch

from windlass.backend.device import Graph
from windlass.errors import OutOfMemoryError, PluginError


class AcceleratorGraph:
    """A captured graph, ready to replay on the stream of the calling thread."""

    def __init__(self, graph: Any, nodes: int | None) -> None:  # noqa: ANN401 - a device's class
        self._graph = graph
        self.nodes = nodes
        self.closed = False

    def replay(self) -> None:
        """Run what was captured, on the same addresses."""
        self._graph.replay()

    def close(self) -> None:
        """Give back the graph's memory."""
        self.closed = True
        self._graph.reset()


class AcceleratorGraphPool:
    """Captures on a stream of its own into one memory pool of `device`.

    Args:
        device: with its index.
        module: torch's module for the device: streams, `graph_pool_handle`, `memory_reserved`.
        graph_class: its class of graphs, which takes `keep_graph` and has `capture_begin(pool=)`,
            `capture_end`, `instantiate`, `replay` and `reset`.
        count_nodes: how many operations a graph of that class has recorded, before it is
            instantiated; None where the device cannot tell, and an empty graph is not noticed.
        capture_arguments: further arguments of `capture_begin`.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        module: Any,  # noqa: ANN401 - devices' modules share no type
        graph_class: Callable[..., Any],
        count_nodes: Callable[[Any], int | None],
        capture_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self._device = device
        self._module = module
        self._graph_class = graph_class
        self._count_nodes = count_nodes
        self._arguments = dict(capture_arguments or {})
        self._stream = module.Stream(device)
        self._bytes = 0
        self._pool: Any = None
        self._graphs: WeakSet[AcceleratorGraph] = WeakSet()

    def capture(self, fn: Callable[[], None], *, key: Hashable, warmup: int = 2) -> Graph:
        """Run `fn` `warmup` times, which compiles what it needs, then record it.

        Raises:
            PluginError: nothing was recorded.
            OutOfMemoryError: the graph's tensors do not fit beside weights and KV cache.
        """
        self._stream.wait_stream(self._module.current_stream(self._device))
        try:
            with self._module.stream(self._stream):
                for _ in range(warmup):
                    fn()
                self._stream.synchronize()
                graph = self._record(fn)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"no memory for the graph {key!r}: lower memory_utilization or max_num_seqs, "
                f"or set enforce_eager ({error})"
            ) from error
        self._module.current_stream(self._device).wait_stream(self._stream)
        nodes = self._count_nodes(graph)
        if nodes == 0:
            raise PluginError(f"the graph {key!r} is empty: nothing ran on the capturing stream")
        graph.instantiate()
        captured = AcceleratorGraph(graph, nodes)
        self._graphs.add(captured)
        return captured

    def memory_bytes(self) -> int:
        """Device memory that capturing took, as torch counts it."""
        return self._bytes

    def _record(self, fn: Callable[[], None]) -> Any:  # noqa: ANN401
        graph = self._graph_class(keep_graph=True)
        before = self._module.memory_reserved(self._device)
        graph.capture_begin(pool=self._open_pool(), **self._arguments)
        try:
            fn()
            self._end(graph)
        except BaseException:
            with suppress(RuntimeError):
                self._end(graph)
            self._forget_failure()
            raise
        self._bytes += self._module.memory_reserved(self._device) - before
        return graph

    def _open_pool(self) -> Any:  # noqa: ANN401
        """The pool of the graphs that live; torch gives one up when its last graph goes."""
        if all(graph.closed for graph in self._graphs):
            self._pool = None
        if self._pool is None:
            self._pool = self._module.graph_pool_handle()
        return self._pool

    def _forget_failure(self) -> None:
        """Let torch leave the state of capturing, in which a capture that broke leaves it.

        Its random generators end to record with a capture that succeeds, if only an empty one.
        The pool may count as recorded to for ever, so that the next graph gets another.
        """
        self._pool = None
        graph = self._graph_class(keep_graph=True)
        with suppress(RuntimeError):
            graph.capture_begin(pool=self._module.graph_pool_handle(), **self._arguments)
            self._end(graph)

    @staticmethod
    def _end(graph: Any) -> None:  # noqa: ANN401
        with warnings.catch_warnings():
            # An empty graph is an error, where its nodes are counted.
            warnings.filterwarnings("ignore", "The .* Graph is empty")
            graph.capture_end()
