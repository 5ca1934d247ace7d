"""The fake accelerator behind the contract of a device, and its graphs."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager

import torch

from windlass.backend import Device, Event, Graph, GraphPool, MemoryInfo, Stream
from windlass.errors import OutOfMemoryError, PluginError
from windlass.testing.fake.machine import Machine, Recording, machine
from windlass.testing.fake.registration import register
from windlass.testing.fake.streams import FakeEvent, FakeStream
from windlass.testing.fake.tensor import DEVICE_TYPE


class FakeGraph:
    """The work of one capture, on the tensors of the capture and on nothing else.

    The graph keeps the memory that it made. Memory of others it only knows: that is for its user
    to keep, as on a device, where it would be given to somebody else.
    """

    def __init__(self, key: Hashable, owner: Machine, recording: Recording) -> None:
        self._key = key
        self._machine = owner
        self._recording: Recording | None = recording
        self.nodes: int | None = len(recording.work)
        self.replays = 0

    def replay(self) -> None:
        """Queue what was captured.

        Raises:
            PluginError: the graph is closed, or memory that it uses was freed after the capture.
        """
        recording = self._recording
        if recording is None:
            raise PluginError(f"the graph {self._key!r} is closed")
        if any(memory() is None for memory in recording.used.values()):
            raise PluginError(f"the graph {self._key!r} uses memory that was freed after capture")
        self._machine.begin_step()
        self.replays += 1
        for work in recording.work:
            self._machine.enqueue(work.name, work.run)

    def close(self) -> None:
        """Give back the graph's memory, once what was queued has run."""
        self._machine.synchronize()
        self._recording = None

    @property
    def nbytes(self) -> int:
        """Memory that it keeps."""
        made = self._recording.made.values() if self._recording is not None else ()
        return sum(memory.nbytes for memory in made)


class FakeGraphPool:
    """Captures by recording; `graphs` has every graph by its key."""

    def __init__(self, owner: Machine) -> None:
        self._machine = owner
        self.graphs: dict[Hashable, FakeGraph] = {}

    def capture(self, fn: Callable[[], None], *, key: Hashable, warmup: int = 2) -> Graph:
        """Run `fn` `warmup` times, then record it: the recorded call runs nothing.

        Raises:
            HostReadError: `fn` waits for the device.
            PluginError: nothing was recorded.
            OutOfMemoryError: the memory that it makes does not fit.
        """
        try:
            for _ in range(warmup):
                fn()
            self._machine.synchronize()
            with self._machine.recording() as recording:
                fn()
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(f"no memory for the graph {key!r}: {error}") from error
        if not recording.work:
            raise PluginError(f"the graph {key!r} is empty: nothing ran on the device")
        self.graphs[key] = FakeGraph(key, self._machine, recording)
        return self.graphs[key]

    def memory_bytes(self) -> int:
        """Bytes that the open graphs keep."""
        return sum(graph.nbytes for graph in self.graphs.values())


class FakeDevice(Device):
    """One fake accelerator of the process; two devices of the same index share it."""

    def __init__(self, index: int) -> None:
        register()
        self.torch_device = torch.device(DEVICE_TYPE, index)
        self.machine = machine(index)

    def activate(self) -> None:
        """Every tensor knows its device: nothing to do."""

    def synchronize(self) -> None:
        """Run all streams to their ends."""
        self.machine.synchronize()

    def memory(self) -> MemoryInfo:
        """Exact, for no tensor lies outside."""
        total, allocated = self.machine.memory_bytes, self.machine.allocated
        return MemoryInfo(
            total=total,
            free=total - allocated,
            allocated=allocated,
            reserved=allocated,
            peak=self.machine.peak,
        )

    def reset_peak(self) -> None:
        """Start a new measurement."""
        self.machine.reset_peak()

    def empty_cache(self) -> None:
        """Freed memory is never kept."""

    def stream(self, priority: int = 0) -> Stream:
        """A new queue; which runs first is chance, whatever the priority."""
        return FakeStream(self.machine)

    def current_stream(self) -> Stream:
        """The thread's current queue."""
        return self.machine.current_stream()

    def use(self, stream: Stream) -> AbstractContextManager[object]:
        """Send work to `stream`."""
        if not isinstance(stream, FakeStream):
            raise TypeError("this stream belongs to another device")
        return self.machine.use(stream)

    def event(self, *, timing: bool = False) -> Event:
        """A new event; all tell time."""
        return FakeEvent(self.machine)

    def graph_pool(self) -> GraphPool | None:
        """A new pool."""
        return FakeGraphPool(self.machine)
