"""What happens to every HTTP request before a route sees it. Pure ASGI, so that streams stream."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from windlass_server.anthropic_messages.errors import anthropic_error, speaks_anthropic
from windlass_server.disconnect import ClientDisconnected
from windlass_server.errors import ApiError, body_too_large, to_api_error
from windlass_server.http_protocol import CHUNKS
from windlass_server.operations.record import RequestRecord, begin_record
from windlass_server.operations.request_log import known_method, log_access, route_of
from windlass_server.processes.peers import is_counted_elsewhere
from windlass_server.state import ServerState

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
MAX_HEADERS = 128
MAX_HEAD_BYTES = 64 * 1024
CLIENT_CLOSED = 499
"""The status under which a request is counted whose client left before the answer's head."""


class _Answer:
    """What goes back to the client: given its ids, and measured.

    `status` is 0 until the head was sent.
    """

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self.anthropic = speaks_anthropic(scope["path"].removeprefix(scope.get("root_path", "")))
        self.status = 0
        self._chunks = scope.get("extensions", {}).get(CHUNKS)
        self._size = 0
        self._send = send
        self._request_id = request_id

    async def send(self, message: Message) -> None:
        """Send one message of ASGI."""
        self._size += len(message.get("body", b""))
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._request_id
            if self.anthropic:
                headers["request-id"] = self._request_id
        await self._send(message)

    @property
    def size(self) -> int:
        """Bytes of the body so far, without frames."""
        return self._size + (0 if self._chunks is None else self._chunks.size)


class Boundary:
    """The outermost layer: ids, counts, and an error object for everything that is raised."""

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        record = begin_record(request_id)
        answer, started = _Answer(scope, send, request_id), time.monotonic()
        with self._state.counted():
            try:
                _check_head(scope)
                await self._app(scope, receive, answer.send)
            except (ClientDisconnected, ClientDisconnect):
                answer.status = answer.status or CLIENT_CLOSED
                record.left = True
                self._state.metrics.client_disconnects.inc()
            except Exception as exc:
                error = to_api_error(exc)
                record.error = error.error
                if error.error.code == "internal_error":
                    logger.exception("Request %s failed", request_id)
                if answer.status:
                    raise
                body = anthropic_error(error, request_id) if answer.anthropic else None
                await error.response(body)(scope, receive, answer.send)
            finally:
                self._state.models.leave_all(scope)
                self._observe(scope, answer, started, record)

    def _observe(
        self, scope: Scope, answer: _Answer, started: float, record: RequestRecord
    ) -> None:
        if is_counted_elsewhere(scope):
            return
        settings, seconds = self._state.settings, time.monotonic() - started
        status, sizes = answer.status or CLIENT_CLOSED, (_length(scope), answer.size)
        self._state.metrics.observe_http(
            route_of(scope), known_method(scope), status, seconds, sizes
        )
        if settings.access_log:
            log_access(settings.operations.log, scope, status, seconds, record)
        if self._state.tracer is not None:
            self._state.tracer.request_ended(scope, status, seconds, record)


def _length(scope: Scope) -> int:
    """Return the bytes of the request's body, 0 where it does not say."""
    length = Headers(scope=scope).get("content-length", "")
    return int(length) if length.isascii() and length.isdecimal() else 0


def _check_head(scope: Scope) -> None:
    headers = scope["headers"]
    size = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > MAX_HEADERS or size > MAX_HEAD_BYTES:
        message = (
            f"The request has more than {MAX_HEADERS} headers or {MAX_HEAD_BYTES} bytes of them."
        )
        raise ApiError(431, message, headers={"Connection": "close"})


class BodyLimit:
    """Bounds the bytes of a body, before and while it is read, and the wait for its next part.

    `by_path` has the limits of single routes, in place of `max_bytes`.
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int, timeout: float, by_path: Mapping[str, int]
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._by_path = by_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request with a `receive` that raises 413 or 408."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        limit = self._by_path.get(path, self._max_bytes)
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise body_too_large(limit)
        read, complete = 0, False

        async def bounded_receive() -> Message:
            nonlocal read, complete
            if complete:
                return await receive()
            message = await self._next_part(receive)
            read += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if read > limit:
                raise body_too_large(limit)
            return message

        await self._app(scope, bounded_receive, send)

    async def _next_part(self, receive: Receive) -> Message:
        try:
            async with asyncio.timeout(self._timeout):
                return await receive()
        except TimeoutError:
            message = f"No part of the request body arrived within {self._timeout:g} s."
            raise ApiError(408, message, headers={"Connection": "close"}) from None
