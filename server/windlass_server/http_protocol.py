"""uvicorn's h11 protocol with two clocks: for a slow request head and for a reader that stalls.

And with a short way for the body of a stream, past h11 and the layers of the application.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from windlass_server.errors import invalid_request
from windlass_server.settings import ServerSettings

CHUNKS = "windlass.chunks"
"""The ASGI extension under which an application finds its `ChunkWriter`."""


class Outbox:
    """Chunks of one server that wait for the end of this turn of its event loop.

    They go out one connection after the other: the streams of a step are woken together, and a
    client that reads several of them is woken once.
    """

    def __init__(self) -> None:
        self._waiting: list[ChunkWriter] = []

    def add(self, writer: ChunkWriter, loop: asyncio.AbstractEventLoop) -> None:
        """Flush `writer` in the next turn of `loop`."""
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append(writer)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for writer in waiting:
            writer.flush()


class ChunkWriter:
    """Writes pieces of a chunked body, after its head was sent and before its end is.

    `size` is how many bytes were written, without their frames.
    """

    def __init__(self, protocol: HttpProtocol) -> None:
        self._protocol = protocol
        self._parts: list[bytes] = []
        self.size = 0

    async def write(self, data: bytes) -> None:
        """Send `data` as a chunk; waits while the client does not read."""
        if not data:
            return  # an empty chunk would end the body
        if not self._parts:
            self._protocol.outbox.add(self, self._protocol.loop)
        self.size += len(data)
        self._parts.append(b"%x\r\n%b\r\n" % (len(data), data))
        if self._protocol.flow.write_paused:
            self.flush()
            await self._protocol.flow.drain()

    def flush(self) -> None:
        """Send what was written now."""
        if self._parts:
            data = b"".join(self._parts)
            self._parts.clear()
            if not self._protocol.transport.is_closing():
                self._protocol.transport.write(data)


class HttpProtocol(H11Protocol):
    """One connection. Limits in seconds; `bound_protocol` makes a class with other ones."""

    header_timeout = 30.0
    write_timeout = 60.0
    outbox: Outbox

    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*args, **kwargs)
        self._application = self.app
        self.app = self._run

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; where the body may be chunked it gets a `ChunkWriter`."""
        if scope["type"] == "http" and scope["http_version"] == "1.1":
            scope.setdefault("extensions", {})[CHUNKS] = ChunkWriter(self)
        await self._application(scope, receive, send)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for the first request's head."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.header_timeout, self._on_slow_head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop both clocks."""
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Let a head that begins on a kept connection have its own clock."""
        super().data_received(data)
        reading_head = self.conn.their_state is h11.IDLE
        if not reading_head and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        elif reading_head and self._head_timer is None and self.conn.trailing_data[0]:
            self._head_timer = self.loop.call_later(self.header_timeout, self._on_slow_head)

    def _on_slow_head(self) -> None:
        self._head_timer = None
        self.transport.abort()

    def pause_writing(self) -> None:
        """Start the clock: the client does not read."""
        super().pause_writing()
        self._watch_buffer(self._unsent())

    def resume_writing(self) -> None:
        """Stop the clock: the client reads again."""
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def _unsent(self) -> int:
        """Bytes that wait for the client. Under TLS the socket has a transport of its own: what is
        encrypted waits there, and the buffer above shrinks only when that one is nearly empty.
        """
        size = self.transport.get_write_buffer_size()
        below = getattr(getattr(self.transport, "_ssl_protocol", None), "_transport", None)
        return size if below is None else size + below.get_write_buffer_size()

    def _watch_buffer(self, size: int) -> None:
        self._write_timer = self.loop.call_later(self.write_timeout, self._on_stall, size)

    def _on_stall(self, size_before: int) -> None:
        size = self._unsent()
        if size < size_before:
            self._watch_buffer(size)
        else:
            self.transport.abort()

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._write_timer = None

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is no HTTP in OpenAI's shape too, and close."""
        error = invalid_request(msg)
        body = error.body()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        head = h11.Response(status_code=error.status, headers=headers, reason=b"Bad Request")
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()


def bound_protocol(settings: ServerSettings) -> type[HttpProtocol]:
    """Return the protocol of one server, with the limits of `settings`."""
    limits = {
        "header_timeout": settings.header_timeout,
        "write_timeout": settings.write_timeout,
        "outbox": Outbox(),
    }
    return type("BoundHttpProtocol", (HttpProtocol,), limits)
