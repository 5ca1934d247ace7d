"""Devices through torch: the host itself, and any accelerator that torch knows."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import torch

from windlass.backend.device import Device, Event, GraphPool, MemoryInfo, Stream
from windlass.plugin.host_memory import host_memory


class HostStream:
    """The host runs everything at once: there is nothing to wait for."""

    def synchronize(self) -> None:
        """Return at once."""

    def wait_event(self, event: Event) -> None:
        """Return at once."""


class HostEvent:
    """A point in time on the host."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def record(self, stream: Stream | None = None) -> None:
        """Remember the time."""
        self._seconds = time.perf_counter()

    def query(self) -> bool:
        """Always reached."""
        return True

    def synchronize(self) -> None:
        """Return at once."""

    def elapsed_ms(self, later: Event) -> float:
        """Milliseconds to a later host event."""
        if not isinstance(later, HostEvent):
            raise TypeError("elapsed_ms needs an event of the same device")
        return (later._seconds - self._seconds) * 1e3


class HostDevice(Device):
    """The processor and its memory: streams and events are null objects."""

    def __init__(self) -> None:
        self.torch_device = torch.device("cpu")

    def activate(self) -> None:
        """Nothing to do."""

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def memory(self) -> MemoryInfo:
        """The machine's memory, or what the container may use of it."""
        memory = host_memory()
        return MemoryInfo(total=memory.total, free=memory.available)

    def reset_peak(self) -> None:
        """The host keeps no peak."""

    def empty_cache(self) -> None:
        """The host keeps no cache."""

    def stream(self, priority: int = 0) -> Stream:
        """A null stream."""
        return HostStream()

    def current_stream(self) -> Stream:
        """A null stream."""
        return HostStream()

    def use(self, stream: Stream) -> AbstractContextManager[object]:
        """Nothing changes."""
        return nullcontext()

    def event(self, *, timing: bool = False) -> Event:
        """A point in time."""
        return HostEvent()


class AcceleratorEvent:
    """A torch event behind the contract's names."""

    def __init__(self, device: torch.device, timing: bool):
        self._event = torch.Event(device, enable_timing=timing)

    def record(self, stream: Stream | None = None) -> None:
        """Mark the end of `stream` (default: the current one)."""
        if stream is None:
            self._event.record()
        else:
            self._event.record(_torch_stream(stream))

    def query(self) -> bool:
        """Whether the point has been reached."""
        return bool(self._event.query())

    def synchronize(self) -> None:
        """Wait for the point."""
        self._event.synchronize()

    def elapsed_ms(self, later: Event) -> float:
        """Milliseconds to a later event."""
        if not isinstance(later, AcceleratorEvent):
            raise TypeError("elapsed_ms needs an event of the same device")
        return float(self._event.elapsed_time(later._event))


class AcceleratorStream:
    """A torch stream behind the contract's names."""

    def __init__(self, stream: torch.Stream):
        self.torch_stream = stream

    def synchronize(self) -> None:
        """Wait until everything queued has run."""
        self.torch_stream.synchronize()

    def wait_event(self, event: Event) -> None:
        """Make later work wait for the event."""
        if not isinstance(event, AcceleratorEvent):
            raise TypeError("a stream waits for events of its own device")
        self.torch_stream.wait_event(event._event)


def _torch_stream(stream: Stream) -> torch.Stream:
    if not isinstance(stream, AcceleratorStream):
        raise TypeError("this stream belongs to another device")
    return stream.torch_stream


class AcceleratorDevice(Device):
    """Any device that `torch.accelerator` drives; a device whose allocator reports no statistics
    overrides `memory`.

    With `make_graph_pool` it captures graphs, into one pool that is made when it is first wanted.
    """

    def __init__(
        self,
        device_type: str,
        index: int,
        *,
        make_graph_pool: Callable[[torch.device], GraphPool] | None = None,
    ):
        self.torch_device = torch.device(device_type, index)
        self._module = getattr(torch, device_type)
        self._make_graph_pool = make_graph_pool

    def activate(self) -> None:
        """Make it the thread's current device."""
        torch.accelerator.set_device_index(self.torch_device.index)

    def synchronize(self) -> None:
        """Wait for all streams."""
        torch.accelerator.synchronize(self.torch_device)

    def memory(self) -> MemoryInfo:
        """Driver's free and total memory, torch's own statistics."""
        free, total = self._module.mem_get_info(self.torch_device)
        return MemoryInfo(
            total=total,
            free=free,
            allocated=self._module.memory_allocated(self.torch_device),
            reserved=self._module.memory_reserved(self.torch_device),
            peak=self._module.max_memory_allocated(self.torch_device),
        )

    def reset_peak(self) -> None:
        """Forget the peak."""
        self._module.reset_peak_memory_stats(self.torch_device)

    def empty_cache(self) -> None:
        """Hand cached memory back to the driver."""
        self._module.empty_cache()

    def stream(self, priority: int = 0) -> Stream:
        """A new stream."""
        return AcceleratorStream(torch.Stream(self.torch_device, priority=priority))

    def current_stream(self) -> Stream:
        """The thread's current stream."""
        return AcceleratorStream(torch.accelerator.current_stream(self.torch_device))

    def use(self, stream: Stream) -> AbstractContextManager[object]:
        """Send work to `stream`."""
        return _torch_stream(stream)

    def event(self, *, timing: bool = False) -> Event:
        """A new event."""
        return AcceleratorEvent(self.torch_device, timing)

    def graph_pool(self) -> GraphPool | None:
        """The device's one pool, where it captures graphs."""
        return self._graph_pool

    @cached_property
    def _graph_pool(self) -> GraphPool | None:
        make = self._make_graph_pool
        return None if make is None else make(self.torch_device)


def torch_device(device_type: str, index: int) -> Device:
    """The host, or the accelerator with this index."""
    return HostDevice() if device_type == "cpu" else AcceleratorDevice(device_type, index)
