"""Graphs without an accelerator: torch operations are recorded once, then run again as recorded.

A replay works on the tensors of the capture and on nothing else, as a device's graph does: a number
that the host computed stays what it was, an input that was not written into its place is not seen.
What a device could not record is an error here too: reading a tensor on the host.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from windlass.backend import Graph, GraphPool, HostDevice
from windlass.errors import PluginError

_Call = tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any], list[torch.Tensor]]

READS_ON_HOST = frozenset(
    {
        "aten::_local_scalar_dense",
        "aten::item",
        "aten::is_nonzero",
        "aten::nonzero",
        "aten::masked_select",
        "aten::bincount",
        "aten::equal",
        "aten::allclose",
        "aten::_unique2",
        "aten::repeat_interleave.Tensor",
        "aten::repeat_interleave.self_Tensor",
    }
)
"""Operations that wait for the device, for the host must know a value or a shape.

`repeat_interleave` does so unless it is told its output's size, indexing when an index is a mask.
"""


class HostReadError(PluginError):
    """A captured step read a tensor on the host."""


class NoHostReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operations that would make the host wait for the device.

    Raises:
        HostReadError: inside the `with` block, such an operation ran.
    """

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run the operation unless it is one of `READS_ON_HOST`."""
        kwargs = kwargs or {}
        if reads_on_host(func.name(), args, kwargs):
            raise HostReadError(f"{func.name()} makes the host wait for the device")
        return func(*args, **kwargs)


def reads_on_host(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the operation of this name waits for the device, called with these arguments."""
    if name.startswith("aten::index"):
        return any(tensor.dtype is torch.bool for tensor in _tensors(args[1]))
    return name in READS_ON_HOST and kwargs.get("output_size") is None


class _Recorder(NoHostReads):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[_Call] = []

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        out = super().__torch_dispatch__(func, types, args, kwargs)
        given = {_memory(leaf) for leaf in _tensors((args, kwargs))}
        # Views share the memory of what is computed anew; only new memory must be refilled.
        fresh = [leaf for leaf in _tensors(out) if _memory(leaf) not in given]
        self.calls.append((func, args, kwargs or {}, fresh))
        return out


def _tensors(tree: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class RecordedGraph:
    """The calls of one capture."""

    def __init__(self, calls: list[_Call]) -> None:
        self._calls = calls
        self.nodes: int | None = len(calls)
        self.replays = 0

    def replay(self) -> None:
        """Run every call again and put its results where the capture had them."""
        self.replays += 1
        for func, args, kwargs, fresh in self._calls:
            given = {_memory(leaf) for leaf in _tensors((args, kwargs))}
            results = [
                leaf for leaf in _tensors(func(*args, **kwargs)) if _memory(leaf) not in given
            ]
            for place, result in zip(fresh, results, strict=True):
                place.copy_(result)

    def close(self) -> None:
        """Forget the calls."""
        self._calls = []


class RecordedGraphPool:
    """Captures by recording; `graphs` has every graph by its key."""

    def __init__(self) -> None:
        self.graphs: dict[Hashable, RecordedGraph] = {}

    def capture(self, fn: Callable[[], None], *, key: Hashable, warmup: int = 2) -> Graph:
        """Run `fn` as often as a device would, and record the last time.

        Raises:
            HostReadError: `fn` reads a tensor on the host.
            PluginError: nothing was recorded.
        """
        for _ in range(warmup):
            fn()
        with _Recorder() as recorder:
            fn()
        if not recorder.calls:
            raise PluginError(f"the graph {key!r} is empty: nothing ran on the device")
        self.graphs[key] = RecordedGraph(recorder.calls)
        return self.graphs[key]

    def memory_bytes(self) -> int:
        """Not counted."""
        return 0


class RecordingDevice(HostDevice):
    """The host as a device that captures graphs."""

    def graph_pool(self) -> GraphPool | None:
        """The device's one pool."""
        return self.recorded

    @functools.cached_property
    def recorded(self) -> RecordedGraphPool:
        """The pool, to look at what was captured."""
        return RecordedGraphPool()
