"""Server-sent events: chunks, keep-alive comments, errors, and an end in every case."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from windlass_server.errors import to_api_error
from windlass_server.generation import ClientDisconnected, until_disconnect
from windlass_server.state import ServerState

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

_encoder = msgspec.json.Encoder()


def event(chunk: msgspec.Struct) -> bytes:
    """Encode one chunk as a server-sent event."""
    return b"data: " + _encoder.encode(chunk) + b"\n\n"


class _Writer:
    """Sends the head of the answer with the first bytes of its body."""

    def __init__(self, send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._send = send
        self._status = status
        self._headers = headers
        self.started = False

    async def write(self, data: bytes, *, last: bool = False) -> None:
        if not self.started:
            self.started = True
            await self._send(
                {
                    "type": "http.response.start",
                    "status": self._status,
                    "headers": self._headers,
                }
            )
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})


class EventStream(Response):
    """An answer that streams `events` and ends with `[DONE]`.

    Its head goes out with the first event or the first keep-alive, so that what fails before
    then is answered with a status of its own.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        state: ServerState,
        events: AsyncGenerator[bytes, None],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        fixed = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(headers={**fixed, **(headers or {})})
        del self.headers["content-length"]
        self._state = state
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the events end, the client goes away or the server stops."""
        writer = _Writer(send, self.status_code, self.raw_headers)
        try:
            await until_disconnect(self._write(writer), receive, self._state.stopping)
        except ClientDisconnected:
            raise
        except Exception as exc:
            if not writer.started:
                raise
            error = to_api_error(exc)
            if error.error.code == "internal_error":
                logger.exception("A stream failed")
            await writer.write(b"data: " + error.body() + b"\n\n" + DONE, last=True)

    async def _write(self, writer: _Writer) -> None:
        first = asyncio.ensure_future(anext(self._events))
        try:
            interval = self._state.settings.keep_alive_interval
            while not (await asyncio.wait((first,), timeout=interval))[0]:
                await writer.write(KEEP_ALIVE)
            await writer.write(first.result())
            async for data in self._events:
                await writer.write(data)
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await self._events.aclose()
        await writer.write(DONE, last=True)
