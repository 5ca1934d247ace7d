"""One device: streams, events, memory. A host device implements the same with null objects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, kw_only=True)
class MemoryInfo:
    """Bytes of device memory; -1 where the device cannot tell.

    `total` is what this process may use at most (a container's limit counts), `free` what could
    be allocated now, `allocated` and `reserved` what this process holds, `peak` its maximum.
    """

    total: int
    free: int
    allocated: int = -1
    reserved: int = -1
    peak: int = -1


class Stream(Protocol):
    """An ordered queue of device work."""

    def synchronize(self) -> None:
        """Wait until everything queued has run."""
        ...

    def wait_event(self, event: Event) -> None:
        """Make later work of this stream wait for the event."""
        ...


class Event(Protocol):
    """A point in a stream."""

    def record(self, stream: Stream | None = None) -> None:
        """Mark the end of what the stream holds now."""
        ...

    def query(self) -> bool:
        """Whether the point has been reached."""
        ...

    def synchronize(self) -> None:
        """Wait for the point."""
        ...

    def elapsed_ms(self, later: Event) -> float:
        """Milliseconds to a later event; both made with `timing=True`."""
        ...


class Graph(Protocol):
    """A captured step. `nodes` is the number of recorded operations, None where unknown."""

    nodes: int | None

    def replay(self) -> None:
        """Run what was captured, on the same addresses."""
        ...

    def close(self) -> None:
        """Give back the graph's memory."""
        ...


class GraphPool(Protocol):
    """Captures graphs into one memory pool."""

    def capture(self, fn: Callable[[], None], *, key: Hashable, warmup: int = 2) -> Graph:
        """Capture `fn`, which uses static buffers only; an empty capture is an error."""
        ...

    def memory_bytes(self) -> int:
        """Bytes that all captured graphs hold."""
        ...


class Device(ABC):
    """What the core needs of a device besides kernels."""

    torch_device: torch.device

    @abstractmethod
    def activate(self) -> None:
        """Make this the current device of the calling thread."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for all work on the device."""

    @abstractmethod
    def memory(self) -> MemoryInfo:
        """Memory now."""

    @abstractmethod
    def reset_peak(self) -> None:
        """Start a new measurement of `MemoryInfo.peak`."""

    @abstractmethod
    def empty_cache(self) -> None:
        """Return cached, unused memory to the system."""

    @abstractmethod
    def stream(self, priority: int = 0) -> Stream:
        """Make a stream; a lower number is more urgent."""

    @abstractmethod
    def current_stream(self) -> Stream:
        """The stream that work of this thread goes to."""

    @abstractmethod
    def use(self, stream: Stream) -> AbstractContextManager[object]:
        """Send work to `stream` inside the `with` block."""

    @abstractmethod
    def event(self, *, timing: bool = False) -> Event:
        """Make an event."""

    def graph_pool(self) -> GraphPool | None:
        """A pool to capture graphs into; None when `Capabilities.graph` is NONE."""
        return None
