"""Streams as bytes on a connection: framed for HTTP/1.1, plain for HTTP/1.0."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import h11
import httpx
import pytest
from make_settings import make_settings

from windlass_server.http_protocol import bound_protocol

if TYPE_CHECKING:
    from tests.server.conftest import Serve

pytestmark = pytest.mark.anyio

BODY = json.dumps(
    {"model": "fake-model", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
).encode()


async def exchange(client: httpx.AsyncClient, version: str, times: int = 1) -> bytes:
    """Send the request and return all bytes of the answers; the last one closes."""
    url = urlsplit(str(client.base_url))
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    for left in reversed(range(times)):
        head = f"POST /v1/chat/completions HTTP/{version}\r\nhost: x\r\n"
        head += "content-type: application/json\r\n" + ("" if left else "connection: close\r\n")
        writer.write(f"{head}content-length: {len(BODY)}\r\n\r\n".encode() + BODY)
    data = await reader.read()
    writer.close()
    return data


def events(body: bytes) -> list[bytes]:
    return [line for line in body.split(b"\n\n") if line]


async def test_a_stream_is_chunked_and_connections_are_used_again(serve: Serve) -> None:
    """A strict parser reads two answers behind each other, whole."""
    _, client = await serve()
    parser = h11.Connection(h11.CLIENT)
    parser.receive_data(await exchange(client, "1.1", times=2))
    parser.receive_data(b"")
    bodies = []
    for last in (False, True):
        extra = [("connection", "close")] if last else []
        request = h11.Request(method="POST", target="/", headers=[("host", "x"), *extra])
        parser.send(request)
        parser.send(h11.EndOfMessage())
        body = b""
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            body += bytes(event.data) if isinstance(event, h11.Data) else b""
        bodies.append(events(body))
        if not last:
            parser.start_next_cycle()
    assert [body[-1] for body in bodies] == [b"data: [DONE]"] * 2
    assert len(bodies[0]) == len(bodies[1]) > 5


async def test_an_old_client_gets_a_stream_without_frames(serve: Serve) -> None:
    _, client = await serve()
    head, _, body = (await exchange(client, "1.0")).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert all(line.startswith(b"data: ") for line in events(body))
    assert events(body)[-1] == b"data: [DONE]"


def test_servers_share_no_waiting_chunks() -> None:
    """A loop that ends with chunks waiting must not hold up the streams of another server."""
    one, other = (bound_protocol(make_settings()) for _ in range(2))
    assert one.outbox is not other.outbox
