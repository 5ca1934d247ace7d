"""Server-sent events: chunks, keep-alive comments, errors, and an end in every case."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from windlass_server.disconnect import ClientDisconnected, until_disconnect
from windlass_server.errors import ApiError, to_api_error
from windlass_server.http_protocol import CHUNKS, ChunkWriter
from windlass_server.operations.record import current_record

if TYPE_CHECKING:
    from windlass_server.state import ServerState

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

_encoder = msgspec.json.Encoder()


def event(chunk: msgspec.Struct) -> bytes:
    """Encode one chunk as a server-sent event."""
    return b"data: " + _encoder.encode(chunk) + b"\n\n"


class _Writer:
    """Sends the head of the answer with the first bytes of its body, and the rest by `chunks`."""

    def __init__(
        self,
        send: Send,
        status: int,
        headers: list[tuple[bytes, bytes]],
        chunks: ChunkWriter | None,
    ) -> None:
        self._send = send
        self._status = status
        self._headers = headers
        self._chunks = chunks
        self.started = False

    async def write(self, data: bytes) -> None:
        if self.started and self._chunks is not None:
            await self._chunks.write(data)
            return
        await self._start()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes) -> None:
        await self._start()
        if self._chunks is not None:
            self._chunks.flush()
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def _start(self) -> None:
        if not self.started:
            self.started = True
            head = {"type": "http.response.start", "status": self._status}
            await self._send({**head, "headers": self._headers})


def named_event(name: str, data: msgspec.Struct) -> bytes:
    """Encode a server-sent event that has a name."""
    return b"event: " + name.encode() + b"\ndata: " + _encoder.encode(data) + b"\n\n"


def _error_event(error: ApiError) -> bytes:
    return b"data: " + error.body() + b"\n\n"


class EventStream(Response):
    """An answer that streams `events`, and then `end`.

    Its head goes out with the first event or the first keep-alive, so that what fails before
    then is answered with a status of its own. What fails later is written by `error_event`.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        state: ServerState,
        events: AsyncGenerator[bytes, None],
        headers: Mapping[str, str] | None = None,
        *,
        error_event: Callable[[ApiError], bytes] = _error_event,
        keep_alive: bytes = KEEP_ALIVE,
        end: bytes = DONE,
    ) -> None:
        fixed = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(headers={**fixed, **(headers or {})})
        del self.headers["content-length"]
        self._state = state
        self._events = events
        self._error_event = error_event
        self._keep_alive = keep_alive
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the events end, the client goes away or the server stops."""
        chunks = scope.get("extensions", {}).get(CHUNKS)
        writer = _Writer(send, self.status_code, self.raw_headers, chunks)
        try:
            await until_disconnect(self._write(writer), receive, self._state.stopping)
        except ClientDisconnected:
            raise
        except Exception as exc:
            if not writer.started:
                raise
            error = to_api_error(exc)
            current_record().error = error.error
            if error.error.code == "internal_error":
                logger.exception("A stream failed")
            await writer.end(self._error_event(error) + self._end)

    async def _write(self, writer: _Writer) -> None:
        first = asyncio.ensure_future(anext(self._events))
        try:
            interval = self._state.settings.keep_alive_interval
            while not (await asyncio.wait((first,), timeout=interval))[0]:
                await writer.write(self._keep_alive)
            await writer.write(first.result())
            async for data in self._events:
                await writer.write(data)
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await self._events.aclose()
        await writer.end(self._end)
