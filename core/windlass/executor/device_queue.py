"""Where a runner's work goes: straight to an asynchronous device, or to a thread that plays one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class DeviceQueue:
    """Runs work in order. A device that is not `asynchronous` gets one worker thread."""

    def __init__(self, *, asynchronous: bool) -> None:
        self._worker: ThreadPoolExecutor | None = None
        if not asynchronous:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="windlass-device")

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Run `work` on the worker thread, or here, where it only queues what the device does."""
        if self._worker is not None:
            return self._worker.submit(work)
        future: Future[T] = Future()
        future.set_result(work())
        return future

    def close(self) -> None:
        """Wait for what was submitted and end the thread."""
        if self._worker is not None:
            self._worker.shutdown(wait=True)
