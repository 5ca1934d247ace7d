"""Streams and events of the fake accelerator: queues that run late, and in an order of a seed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from windlass.backend import Event, Stream


@dataclass(slots=True)
class Work:
    """An operation that waits for its turn."""

    name: str
    run: Callable[[], None]


@dataclass(slots=True)
class Point:
    """A place in a stream; work that fails before it leaves its error."""

    reached: bool = False
    seconds: float = 0.0
    error: Exception | None = None

    def reach(self, error: Exception | None = None) -> None:
        """The stream has come here."""
        self.reached, self.seconds, self.error = True, time.perf_counter(), error


@dataclass(slots=True)
class Wait:
    """Nothing behind it runs before the point is reached, which may lie in another stream."""

    point: Point


Item = Work | Point | Wait


class _Machine(Protocol):
    """What streams and events ask of their machine."""

    def push(self, stream: FakeStream, item: Item) -> None: ...

    def finish(self, done: Callable[[], bool]) -> None: ...

    def poll(self) -> None: ...

    def reported(self, error: Exception) -> None: ...

    def current_stream(self) -> FakeStream: ...

    def use(self, stream: FakeStream) -> AbstractContextManager[object]: ...


class FakeStream:
    """A queue. The machine takes from its head whenever it likes."""

    def __init__(self, machine: _Machine) -> None:
        self.machine = machine
        self.queue: deque[Item] = deque()

    def synchronize(self) -> None:
        """Run everything in the queue, and of other streams what it waits for."""
        self.machine.finish(lambda: not self.queue)

    def wait_event(self, event: Event) -> None:
        """Let nothing that is queued from now on run before the event; never recorded: no wait."""
        if not isinstance(event, FakeEvent):
            raise TypeError("a stream waits for events of its own device")
        if event.point is not None:
            self.machine.push(self, Wait(event.point))


class FakeEvent:
    """The last point that was recorded."""

    def __init__(self, machine: _Machine) -> None:
        self._machine = machine
        self.point: Point | None = None

    def record(self, stream: Stream | None = None) -> None:
        """Mark the end of `stream` (default: the current one)."""
        if stream is None:
            stream = self._machine.current_stream()
        if not isinstance(stream, FakeStream):
            raise TypeError("this stream belongs to another device")
        self.point = Point()
        self._machine.push(stream, self.point)

    def query(self) -> bool:
        """Whether the point has been reached; the machine may get on meanwhile."""
        self._machine.poll()
        return self.point is None or self.point.reached

    def synchronize(self) -> None:
        """Run what lies before the point.

        Raises:
            Exception: what the work before it raised.
        """
        point = self.point
        if point is None:
            return
        self._machine.finish(lambda: point.reached)
        if point.error is not None:
            self._machine.reported(point.error)
            raise point.error

    def elapsed_ms(self, later: Event) -> float:
        """Milliseconds to a later event of the device; both must have been reached."""
        if not isinstance(later, FakeEvent):
            raise TypeError("elapsed_ms needs an event of the same device")
        if self.point is None or later.point is None:
            raise RuntimeError("elapsed_ms needs two recorded events")
        return (later.point.seconds - self.point.seconds) * 1e3
