"""One API call on its way to the engine: who makes it, what it may take, when it has to end."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING

from starlette.requests import Request

from windlass_server.access.caller import caller, runs_as
from windlass_server.access.deadline import Deadline
from windlass_server.access.meter import Meter
from windlass_server.disconnect import until_disconnect
from windlass_server.errors import invalid_request

if TYPE_CHECKING:
    from windlass_server.access.control import AccessControl
    from windlass_server.access.fair_queue import FairQueue, Place
    from windlass_server.access.size import Size
    from windlass_server.engine import Engine

TIMEOUT_HEADER = "x-request-timeout"
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


class Admission:
    """What one call takes of its caller's limits and of the engine; made when it arrives.

    `headers` tell the caller's rates. `meter` counts the tokens. A call from inside the process
    is held to no limit and no deadline, and takes its turn like all others.
    """

    def __init__(self, request: Request, control: AccessControl, stopping: asyncio.Event) -> None:
        """Count the request.

        Raises:
            ApiError: 429, too many requests; 400, the header that limits its time is wrong.
        """
        self.caller = caller(request)
        self.meter = Meter()
        self._limits = control.limits if runs_as(request.scope) is None else None
        self._separate = control.settings.separate_prefix_caches
        self._receive = request.receive
        self._stopping = stopping
        self._estimate: int | None = None
        self._queue: FairQueue | None = None
        self._place: Place | None = None
        self.headers: dict[str, str] = {}
        if self._limits is None:
            self.deadline = Deadline(None, None, control.deadline_passed)
            return
        self.deadline = control.deadline()
        self._limits.count_request(self.caller)
        self.headers.update(self._limits.headers(self.caller))
        given = request.headers.get(TIMEOUT_HEADER)
        if given is not None:
            self.deadline.limit_request(_seconds(given))

    async def wait_for_model(self, loaded: Callable[[], Coroutine[None, None, Engine]]) -> Engine:
        """Return what `loaded` does; until then the call counts among those of its caller.

        Raises:
            ApiError: 429, over a limit; 503 and 504, a deadline passed; what `loaded` raises.
        """
        if self._limits is None:
            return await loaded()
        with self._limits.running(self.caller):
            return await self.deadline.within(loaded())

    async def enter(self, queue: FairQueue, size: Size, *, client_watched: bool = False) -> None:
        """Take the estimated tokens and wait for the call's turn; `leave` gives back what is left.

        `client_watched` says that whoever calls this ends it when the client goes away.

        Raises:
            ApiError: 429, over a limit; 503 and 504, a deadline passed; 503, the server stops.
            QueueFullError: too many of this caller wait.
            ClientDisconnected: nobody waits for the answer.
        """
        self.meter.prompt_tokens = size.prompt_tokens
        try:
            if self._limits is not None:
                estimate = size.prompt_tokens + size.max_tokens
                self._limits.begin(self.caller, estimate)
                self._estimate = estimate
                self.headers.update(self._limits.headers(self.caller))
            self._queue = queue
            self._place, turn = queue.enter(self.caller, self.meter, size.sequences)
            if turn is not None:
                await self._wait_for(turn, client_watched)
            self.deadline.check()
        except BaseException:
            self.refuse()
            raise

    async def _wait_for(self, turn: asyncio.Future[None], client_watched: bool) -> None:
        def fail(error: Exception) -> None:
            if not turn.done():
                turn.set_exception(error)

        async def wait() -> None:
            await turn

        self.deadline.watch(fail)
        if client_watched:
            await turn
        else:
            await until_disconnect(wait(), self._receive, self._stopping)

    def salted(self, cache_salt: str) -> str:
        """Return what separates the call's cached blocks from others': also of other keys, if so.

        A digest, for the client's own salt may be as long as a salt can be.
        """
        if not self._separate:
            return cache_salt
        return hashlib.sha256(f"{self.caller.owner}\0{cache_salt}".encode()).hexdigest()

    def refuse(self) -> None:
        """End a call that the engine did not take: its tokens are given back."""
        self.meter.prompt_tokens = 0
        self.leave()

    def leave(self) -> None:
        """End the call and settle what it has used; may be called twice."""
        self.deadline.close()
        if self._queue is not None and self._place is not None:
            self._queue.leave(self._place)
            self._place = None
        if self._limits is not None and self._estimate is not None:
            used = self.meter.prompt_tokens + self.meter.completion_tokens
            self._limits.end(self.caller, self._estimate, used)
            self._estimate = None


def _seconds(given: str) -> float:
    seconds = float(given) if _SECONDS.fullmatch(given) else 0.0
    if seconds <= 0:
        text = f"The header '{TIMEOUT_HEADER}' must be a number of seconds above 0."
        raise invalid_request(text, TIMEOUT_HEADER, "invalid_value")
    return seconds
