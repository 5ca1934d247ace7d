"""The way from one API process to another: its private socket, for requests that belong there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import httpx
from starlette.types import Message, Receive, Scope, Send

from windlass_server.disconnect import ClientDisconnected, until_disconnect
from windlass_server.errors import server_error, unavailable

if TYPE_CHECKING:
    from windlass_server.processes.control import Place

_FROM_PEER = "from_peer"
_COUNTED = "counted_elsewhere"
_CONNECT_SECONDS = 5.0

# What belongs to one connection, or is written anew on each.
_NOT_HANDED_ON = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"date"}
    | {b"proxy-connection", b"expect", b"x-request-id"}
)


class Peers:
    """The API processes of one server, as one of them sees the others."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.others = tuple(index for index in range(place.count) if index != place.index)
        self._clients: dict[int, httpx.AsyncClient] = {}

    def client(self, index: int) -> httpx.AsyncClient:
        """Return the HTTP client that reaches a process."""
        if index not in self._clients:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)
            transport = httpx.AsyncHTTPTransport(uds=self.place.socket_of(index), limits=limits)
            timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
            self._clients[index] = httpx.AsyncClient(
                transport=transport, timeout=timeout, trust_env=False
            )
        return self._clients[index]

    async def forward(self, index: int, scope: Scope, receive: Receive, send: Send) -> None:
        """Let another process answer, both bodies streaming.

        That process counts the request. The client may leave at any time.

        Raises:
            ApiError: 503, the process is not there; 500, it ended while it answered.
        """
        sent = asyncio.Event()

        async def receive_end() -> Message:
            await sent.wait()
            return await receive()

        request = httpx.Request(
            scope["method"], _url(scope), headers=_headers(scope), content=_body(receive, sent)
        )
        never = asyncio.Event()  # the other process ends its answer when the server stops
        work = _relay(self.client(index), request, scope, send)
        try:
            await until_disconnect(work, receive_end, never)
        except ClientDisconnected:
            # The other process learns of that too, for its connection is closed.
            leave_uncounted(scope)

    async def ask(self, index: int, scope: Scope) -> str:
        """Return what another process answers to the same request, which has no body.

        Raises:
            httpx.TransportError: it is not there.
        """
        request = httpx.Request(scope["method"], _url(scope), headers=_headers(scope))
        return (await self.client(index).send(request)).text

    async def aclose(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(client.aclose() for client in self._clients.values()))


def mark_from_peer(scope: Scope) -> None:
    """Note that another API process handed this request on."""
    scope.setdefault("state", {})[_FROM_PEER] = True


def is_from_peer(scope: Scope) -> bool:
    """Whether another API process handed this request on."""
    return scope["state"].get(_FROM_PEER, False) is True


def leave_uncounted(scope: Scope) -> None:
    """Note that another API process counts this request."""
    scope["state"][_COUNTED] = True


def is_counted_elsewhere(scope: Scope) -> bool:
    """Whether another API process counts this request."""
    return scope["state"].get(_COUNTED, False) is True


def _url(scope: Scope) -> str:
    path: bytes = scope["raw_path"].removeprefix(scope.get("root_path", "").encode())
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    return f"http://peer{(path + query).decode('ascii')}"


def _headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in scope["headers"] if name not in _NOT_HANDED_ON]
    return [*kept, (b"x-request-id", scope["state"]["request_id"].encode())]


async def _body(receive: Receive, sent: asyncio.Event) -> AsyncGenerator[bytes, None]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        more = message.get("more_body", False)
        if data := message.get("body", b""):
            yield data
    sent.set()


async def _relay(
    client: httpx.AsyncClient, request: httpx.Request, scope: Scope, send: Send
) -> None:
    try:
        response = await client.send(request, stream=True)
    except httpx.TransportError as exc:
        text = "The API process that has this is restarting; try again."
        raise unavailable(text, "process_restarting", 2.0) from exc
    leave_uncounted(scope)
    try:
        headers = [
            (name.lower(), value)
            for name, value in response.headers.raw
            if name.lower() not in _NOT_HANDED_ON
        ]
        start = {"type": "http.response.start", "status": response.status_code, "headers": headers}
        await send(start)
        async for part in response.aiter_raw():
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    except httpx.TransportError as exc:
        text = "The API process that had this ended."
        raise server_error(text, "process_ended", retry=True) from exc
    finally:
        await response.aclose()
