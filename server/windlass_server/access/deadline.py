"""When a call must have had its first output, and when it must have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TypeVar

from windlass_server.errors import ApiError, unavailable

Result = TypeVar("Result")

QUEUE = "queue"
REQUEST = "request"
KINDS = (QUEUE, REQUEST)

_RETRY_AFTER = 5.0
"""Seconds after which to try again where the queue was too slow."""


class Deadline:
    """The times of one call, counted from now: one timer, and nothing for each token.

    `queue_timeout` is until the first output, `request_timeout` until the end, in seconds; None is
    any time. `on_expiry` is told which of both has passed.
    """

    def __init__(
        self,
        queue_timeout: float | None,
        request_timeout: float | None,
        on_expiry: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._timeouts = {QUEUE: queue_timeout, REQUEST: request_timeout}
        self._queue_end = None if queue_timeout is None else now + queue_timeout
        self._request_end = None if request_timeout is None else now + request_timeout
        self._on_expiry = on_expiry
        self._timer: asyncio.TimerHandle | None = None
        self._stop: Callable[[ApiError], None] | None = None
        self._has_output: Callable[[], bool] = _no_output
        self.error: ApiError | None = None

    def limit_request(self, seconds: float) -> None:
        """Take a shorter time that the request itself asks for, counted from now."""
        end = self._loop.time() + seconds
        if self._request_end is None or end < self._request_end:
            self._request_end = end
            self._timeouts[REQUEST] = seconds

    @property
    def next_end(self) -> float | None:
        """The time of the loop's clock at which a call without output fails; None is never."""
        ends = [end for end in (self._queue_end, self._request_end) if end is not None]
        return min(ends, default=None)

    def watch(
        self, stop: Callable[[ApiError], None], has_output: Callable[[], bool] | None = None
    ) -> None:
        """Call `stop` with the error when a time has passed, or now if one has; once at most.

        Without `has_output` there has been no output yet.
        """
        self._stop = stop
        if has_output is not None:
            self._has_output = has_output
        if self.error is not None:
            stop(self.error)
        elif self._timer is None and (end := self.next_end) is not None:
            self._timer = self._loop.call_at(end, self._look)

    def check(self, now: float | None = None) -> None:
        """Raise the error if a time has passed."""
        now = self._loop.time() if now is None else now
        if self._request_end is not None and now >= self._request_end:
            self._expire(REQUEST)
        elif self._queue_end is not None and now >= self._queue_end and not self._has_output():
            self._expire(QUEUE)
        if self.error is not None:
            raise self.error

    async def within(self, work: Coroutine[None, None, Result]) -> Result:
        """Return what `work`, which comes before any output, returns in time.

        Raises:
            ApiError: a time has passed; `work` has been cancelled.
        """
        end = self.next_end
        if end is None:
            return await work
        try:
            async with asyncio.timeout_at(end):
                return await work
        except TimeoutError:
            self.check(end)
            raise

    def close(self) -> None:
        """Call nobody any more."""
        self._stop = None
        self._has_output = _no_output
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        assert self._timer is not None
        try:
            # A timer may be early by the clock's resolution.
            self.check(self._timer.when())
        except ApiError as error:
            if self._stop is not None:
                self._stop(error)
            return
        # There was an output in time: what is left is the end of the call.
        if self._request_end is not None:
            self._timer = self._loop.call_at(self._request_end, self._look)

    def _expire(self, kind: str) -> None:
        if self.error is None:
            self._on_expiry(kind)
            self.error = _error(kind, self._timeouts[kind] or 0.0)


def _no_output() -> bool:
    return False


def _error(kind: str, seconds: float) -> ApiError:
    if kind == QUEUE:
        text = f"The request waited for {seconds:g} s without being served; try again later."
        return unavailable(text, "queue_timeout", _RETRY_AFTER)
    text = f"The request was not finished within {seconds:g} s."
    headers = {"x-should-retry": "false"}
    return ApiError(504, text, type="timeout_error", code="deadline_exceeded", headers=headers)
