"""The fake machine: its memory, its streams, what it forbids, and when it shall fail.

Nothing runs when it is called. An operation is put into the current stream and runs when somebody
waits for it, or earlier when the machine likes: a seed decides, so every run can be repeated.
"""

from __future__ import annotations

import random
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch

from windlass.errors import EngineError, PluginError
from windlass.testing.fake.plugin import MEMORY_BYTES
from windlass.testing.fake.streams import FakeStream, Item, Point, Wait, Work
from windlass.testing.recorded_graph import HostReadError

Place = Literal["launch", "device", "memory"]
"""Where a step fails: in the host's call, later on the device, or for want of memory."""


class FakeStepError(EngineError):
    """A step failed because a test wanted it to."""


class Memory:
    """An allocation: `nbytes` count until the last tensor on it is gone."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


@dataclass(slots=True)
class Recording:
    """What a capture has recorded: work, memory that it made, memory of others that it uses."""

    work: list[Work] = field(default_factory=list)
    made: dict[int, Memory] = field(default_factory=dict)
    used: dict[int, weakref.ref[Memory]] = field(default_factory=dict)


class _Local(threading.local):
    """What each thread has of its own."""

    stream: FakeStream | None = None
    recording: Recording | None = None
    forbids: str = ""


class Machine:
    """One fake accelerator of this process.

    Attributes:
        haste: how likely the machine runs another operation after each call (0: only when
            somebody waits).
        memory_bytes: what tensors may take together.
        host_reads: how often the host has waited to know a value.
        steps: steps begun: eager ones at their `plan`, graphs at their replay.
        errors: all that work has raised on the device, in turn: an engine that recovers hides it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._local = _Local()
        self._default = FakeStream(self)
        self._error: Exception | None = None
        self._allocated = self._peak = 0
        self._page_locked: list[tuple[int, int]] = []
        self.configure()

    def configure(
        self, *, seed: int = 0, haste: float = 0.2, memory_bytes: int = MEMORY_BYTES
    ) -> None:
        """Begin anew, with all queues run to their ends and no failure ahead."""
        with self._lock:
            self._random = random.Random(seed)
            self._busy: list[FakeStream] = getattr(self, "_busy", [])
            while self._advance():
                pass
            self._error = None
            self.haste = haste
            self.memory_bytes = memory_bytes
            self.host_reads = self.steps = 0
            self.errors: list[Exception] = []
            self._failures: dict[int, Place] = {}

    # Memory

    def take_memory(self, nbytes: int) -> Memory:
        """Count an allocation.

        Raises:
            torch.OutOfMemoryError: the machine has less left.
        """
        with self._lock:
            left = self.memory_bytes - self._allocated
            if nbytes > left:
                raise torch.OutOfMemoryError(
                    f"the fake accelerator has {left} of {self.memory_bytes} bytes left, and "
                    f"{nbytes} were asked for"
                )
            self._allocated += nbytes
            self._peak = max(self._peak, self._allocated)
        memory = Memory(nbytes)
        weakref.finalize(memory, self._give_back, nbytes)
        recording = self._local.recording
        if recording is not None:
            recording.made[id(memory)] = memory
        return memory

    def _give_back(self, nbytes: int) -> None:
        with self._lock:
            self._allocated -= nbytes

    @property
    def allocated(self) -> int:
        """Bytes of all tensors."""
        return self._allocated

    @property
    def peak(self) -> int:
        """The largest `allocated` since `reset_peak`."""
        return self._peak

    def reset_peak(self) -> None:
        """Start a new measurement."""
        self._peak = self._allocated

    def lock_pages(self, buffer: torch.Tensor) -> None:
        """Let the device copy from and to this host memory on its own, so late."""
        start, end = buffer.data_ptr(), buffer.data_ptr() + buffer.nbytes
        self._page_locked.append((start, end))
        weakref.finalize(buffer.untyped_storage(), self._page_locked.remove, (start, end))

    def is_page_locked(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor lies in such memory."""
        address = tensor.data_ptr()
        return any(start <= address < end for start, end in self._page_locked)

    # Streams

    def current_stream(self) -> FakeStream:
        """The stream that this thread's work goes to."""
        return self._local.stream or self._default

    @contextmanager
    def use(self, stream: FakeStream) -> Iterator[None]:
        """Send this thread's work to `stream`."""
        before, self._local.stream = self._local.stream, stream
        try:
            yield
        finally:
            self._local.stream = before

    def enqueue(self, name: str, run: Callable[[], None], *used: Memory) -> None:
        """Put work into the current stream, or into the graph that is being captured."""
        recording = self._local.recording
        if recording is None:
            self.push(self.current_stream(), Work(name, run))
            return
        recording.work.append(Work(name, run))
        for memory in used:
            if id(memory) not in recording.made:
                recording.used[id(memory)] = weakref.ref(memory)

    def push(self, stream: FakeStream, item: Item) -> None:
        """Queue an item; the machine may get on with any stream before this returns.

        After a failure nothing more is queued until somebody was told of it.
        """
        if self._local.recording is not None:
            return  # a graph has one stream, in order
        with self._lock:
            if self._error is not None:
                # The machine stands still until somebody is told.
                if isinstance(item, Point):
                    item.reach(self._error)
                return
            if not stream.queue:
                self._busy.append(stream)
            stream.queue.append(item)
            self.poll()

    def poll(self) -> None:
        """Get on as far as chance has it."""
        with self._lock:
            while self._random.random() < self.haste and self._advance():
                pass

    def finish(self, done: Callable[[], bool]) -> None:
        """Run work, of any stream, until `done`.

        Raises:
            HostReadError: a graph is being captured, or waiting is forbidden.
            Exception: what work raised, if nobody was told yet.
        """
        self.forbid_in_capture("waiting for a stream or an event")
        with self._lock:
            while not done():
                if not self._advance():
                    raise PluginError("a stream waits for an event that no stream reaches")
            error, self._error = self._error, None
        if error is not None:
            raise error

    def synchronize(self) -> None:
        """Run everything."""
        self.finish(lambda: not self._busy)

    def reported(self, error: Exception) -> None:
        """Somebody was told of the error."""
        if self._error is error:
            self._error = None

    def _advance(self) -> bool:
        """Run one item at the head of any stream that does not wait."""
        ready = [stream for stream in self._busy if _is_ready(stream.queue[0])]
        if not ready:
            return False
        stream = self._random.choice(ready)
        item = stream.queue.popleft()
        if not stream.queue:
            self._busy.remove(stream)
        if isinstance(item, Point):
            item.reach()
        elif isinstance(item, Work):
            self._run(item)
        return True

    def _run(self, work: Work) -> None:
        try:
            with torch.inference_mode(mode=False), torch.no_grad():
                work.run()
        except Exception as error:  # noqa: BLE001 - told to whoever waits, as a device does
            error.add_note(f"in {work.name} on the fake accelerator")
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Throw away all that is queued; whoever waits for it gets the error."""
        self._error = error
        self.errors.append(error)
        for stream in self._busy:
            for item in stream.queue:
                if isinstance(item, Point):
                    item.reach(error)
            stream.queue.clear()
        self._busy.clear()

    # What is forbidden

    def read_on_host(self, name: str) -> None:
        """The host must know a value: wait for the current stream.

        Raises:
            HostReadError: a graph is being captured, or `no_host_reads` forbids it.
        """
        self.forbid_in_capture(name)
        if self._local.forbids:
            raise HostReadError(f"{name} makes the host wait for the device {self._local.forbids}")
        self.host_reads += 1
        self.current_stream().synchronize()

    def forbid_in_capture(self, name: str) -> None:
        """Raise `HostReadError` when this thread captures a graph."""
        if self._local.recording is not None:
            raise HostReadError(f"{name} makes the host wait for the device during a capture")

    @property
    def is_capturing(self) -> bool:
        """Whether this thread captures a graph."""
        return self._local.recording is not None

    @contextmanager
    def no_host_reads(self, why: str = "inside no_host_reads") -> Iterator[None]:
        """Refuse operations of this thread that read a value on the host; events may be waited for.

        Raises:
            HostReadError: inside the `with` block, such an operation ran.
        """
        before, self._local.forbids = self._local.forbids, why
        try:
            yield
        finally:
            self._local.forbids = before

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        """Record this thread's work instead of queueing it."""
        self._local.recording = Recording()
        try:
            yield self._local.recording
        finally:
            self._local.recording = None

    # Failures

    def fail(self, *, after: int, at: Place = "device") -> None:
        """Let the step fail that begins after `after` others from now.

        "launch" raises in the call that begins it, "memory" too, as a kernel that finds no memory;
        "device" when its work runs, which whoever waits for it is told.
        """
        self._failures[self.steps + after] = at

    def begin_step(self) -> None:
        """Count a step, and let it fail when it shall."""
        place = self._failures.pop(self.steps, None)
        number = self.steps
        self.steps += 1
        if place == "launch":
            raise FakeStepError(f"step {number} fails at its launch")
        if place == "memory":
            raise torch.OutOfMemoryError(f"step {number} finds no memory")
        if place == "device":
            self.enqueue(f"step {number}", lambda: _raise(number))


def _is_ready(item: Item) -> bool:
    return not isinstance(item, Wait) or item.point.reached


def _raise(number: int) -> None:
    raise FakeStepError(f"step {number} fails on the device")


_machines: dict[int, Machine] = {}


def machine(index: int = 0) -> Machine:
    """The process's machine of this index; it is there from the first call on."""
    if index not in _machines:
        _machines[index] = Machine()
    return _machines[index]
