"""Responses that run without their client, who comes back for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from windlass_server.errors import shutting_down, to_api_error, unavailable
from windlass_server.responses.shape import ResponseShape
from windlass_server.responses.store import ResponseStore, StoredResponse

if TYPE_CHECKING:
    from windlass_server.models.served_model import ServedModel
    from windlass_server.state import ServerState

logger = logging.getLogger(__name__)


class BackgroundResponse:
    """One response that runs; its events are kept so that they can be streamed at any time."""

    def __init__(
        self, owner: str, shape: ResponseShape, inputs: list[dict[str, Any]], model: ServedModel
    ) -> None:
        self.owner = owner
        self.model = model
        self.shape = shape
        self.events: list[bytes] = []
        self.ended = False
        self._inputs = inputs
        self._news = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False

    @property
    def id(self) -> str:
        """The response's id."""
        return self.shape.response.id

    def body(self) -> bytes:
        """Return the response as it stands, as JSON."""
        return msgspec.json.encode(self.shape.response)

    @property
    def input_items(self) -> list[dict[str, Any]]:
        """The items that went in."""
        return self._inputs

    def start(self) -> None:
        """Begin to generate."""
        self._task = asyncio.create_task(self._generate())

    async def run(self, state: ServerState) -> None:
        """Wait until the end, a failure, `cancel`, or the end of the server."""
        assert self._task is not None
        with state.counted():
            stop = asyncio.create_task(state.stopping.wait())
            await asyncio.wait((self._task, stop), return_when=asyncio.FIRST_COMPLETED)
            for task in (self._task, stop):
                task.cancel()
            await asyncio.gather(self._task, stop, return_exceptions=True)
            await self.shape.aclose()
            if self._cancelled and self._task.cancelled():
                self.shape.cancel()
            elif self._task.cancelled():
                await self._add(self.shape.failed_event(shutting_down()))
        async with self._news:
            self.ended = True
            self._news.notify_all()

    async def _generate(self) -> None:
        try:
            async with aclosing(self.shape.events()) as events:
                async for data in events:
                    await self._add(data)
        except Exception as exc:
            error = to_api_error(exc)
            if error.error.code == "internal_error":
                logger.exception("A background response failed")
            await self._add(self.shape.failed_event(error))

    async def _add(self, data: bytes) -> None:
        async with self._news:
            self.events += [part + b"\n\n" for part in data.split(b"\n\n") if part]
            self._news.notify_all()

    def record(self) -> StoredResponse:
        """Return what is kept of it."""
        response = self.shape.response
        return StoredResponse.of(self.owner, response, self._inputs, tuple(self.events))

    async def cancel(self) -> None:
        """End it now; returns when it has ended."""
        assert self._task is not None
        self._cancelled = True
        self._task.cancel()
        async with self._news:
            await self._news.wait_for(lambda: self.ended)

    async def follow(self, start: int) -> AsyncGenerator[bytes, None]:
        """Yield the events from number `start` on, until the response has ended."""
        position = start
        while True:
            async with self._news:
                while not self.ended and len(self.events) <= position:
                    await self._news.wait()
                fresh = self.events[position:]
            if not fresh:
                return
            position += len(fresh)
            yield b"".join(fresh)


class BackgroundResponses:
    """All responses that run in the background, at most `limit` at a time."""

    def __init__(self, store: ResponseStore, limit: int) -> None:
        self._store = store
        self._limit = limit
        self._running: dict[str, BackgroundResponse] = {}
        self._beginning = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @contextmanager
    def room(self) -> Iterator[None]:
        """Keep room for one more, which is launched right after the block.

        Raises:
            ApiError: 503, too many run or begin.
        """
        if len(self._running) + self._beginning >= self._limit:
            text = f"{self._limit} responses run in the background already; try again later."
            raise unavailable(text, "server_overloaded", 5.0)
        self._beginning += 1
        try:
            yield
        finally:
            self._beginning -= 1

    def launch(self, running: BackgroundResponse, state: ServerState) -> None:
        """Start one."""
        self._running[running.id] = running
        # The client's request ends long before.
        running.model.use()
        running.start()
        task = asyncio.create_task(self._run(running, state))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, running: BackgroundResponse, state: ServerState) -> None:
        try:
            await running.run(state)
        finally:
            running.model.leave()
            self._store.add(running.record())
            del self._running[running.id]

    def get(self, owner: str, response_id: str) -> BackgroundResponse | None:
        """Return one of `owner` that runs."""
        running = self._running.get(response_id)
        return running if running is not None and running.owner == owner else None
