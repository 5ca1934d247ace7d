"""Work off the event loop that ends in time: a thread is interrupted, a process is killed."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Interrupted(BaseException):
    """Raised inside the work when its time is over; no `except Exception` catches it."""


class InterruptibleCall(Generic[Result]):
    """A call of Python code that `stop` ends at its next bytecode.

    A single call of a C function is not interrupted: what is called must bound its own sizes.
    """

    def __init__(self, function: Callable[[], Result]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._thread: int | None = None

    def __call__(self) -> Result:
        """Run in the calling thread; raises Interrupted when it was stopped."""
        with self._lock:
            self._thread = threading.get_ident()
        try:
            return self._function()
        finally:
            with self._lock:
                self._thread = None

    def stop(self) -> None:
        """Raise Interrupted in the thread that runs the call, if one does."""
        with self._lock:
            if self._thread is not None:
                thread = ctypes.c_ulong(self._thread)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(Interrupted))


async def run_bounded(
    pool: ThreadPoolExecutor, work: Callable[[], Result], stop: Callable[[], None], timeout: float
) -> Result:
    """Run `work` in `pool`, for at most `timeout` seconds once it has begun; `stop` ends it.

    Raises:
        TimeoutError: the time was over, and the work has been told to stop.
    """
    loop = asyncio.get_running_loop()
    begun: asyncio.Future[None] = loop.create_future()

    def run() -> Result:
        loop.call_soon_threadsafe(_mark, begun)
        return work()

    future = loop.run_in_executor(pool, run)
    try:
        await asyncio.wait((begun, future), return_when=asyncio.FIRST_COMPLETED)
        done, _ = await asyncio.wait((future,), timeout=timeout)
        if not done:
            raise TimeoutError
        return future.result()
    finally:
        if not future.done():
            stop()
            future.add_done_callback(_forget)
            future.cancel()


def _mark(begun: asyncio.Future[None]) -> None:
    if not begun.done():
        begun.set_result(None)


def _forget(future: asyncio.Future[Result]) -> None:
    if not future.cancelled():
        future.exception()
