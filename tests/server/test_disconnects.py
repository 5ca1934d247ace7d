"""A client that leaves takes its work with it; one that stops reading is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, Serve

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {
    "model": "fake-model",
    "messages": [{"role": "user", "content": "Hello"}],
}


async def wait_for(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def connect(
    client: httpx.AsyncClient, receive_buffer: int | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection; without a bound in bytes the system's buffer grows to what is sent."""
    url = urlsplit(str(client.base_url))
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (url.hostname, url.port))
    return await asyncio.open_connection(sock=connection)


def post(body: dict[str, Any], route: str = CHAT) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {route} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("more", [{}, {"n": 3}])
async def test_leaving_before_the_first_token_aborts(
    serve: Serve, engine: FakeEngine, stream: bool, more: dict[str, Any]
) -> None:
    state, client = await serve()
    engine.gate.clear()
    _, writer = await connect(client)
    writer.write(post({**HELLO, **more, "stream": stream}))
    await wait_for(lambda: engine.running)
    writer.close()
    await wait_for(lambda: engine.aborted)
    assert not engine.running
    await wait_for(lambda: not state.in_flight)
    metrics = (await client.get("/metrics")).text
    assert 'windlass:client_disconnects_total{engine="0",model_name="fake-model"} 1.0' in metrics
    choices = more.get("n", 1)
    aborted = 'vllm:request_success_total{engine="0",finished_reason="abort",model_name='
    assert f'{aborted}"fake-model"}} {choices}.0' in metrics


async def test_leaving_in_the_middle_of_a_stream_aborts(serve: Serve, engine: FakeEngine) -> None:
    state, client = await serve()
    engine.pause_after = 3
    reader, writer = await connect(client)
    writer.write(post({**HELLO, "stream": True}))
    await reader.readuntil(b'"role"')
    writer.close()
    await wait_for(lambda: engine.aborted)
    await wait_for(lambda: not state.in_flight)
    assert not engine.running


async def test_leaving_aborts_every_prompt(serve: Serve, engine: FakeEngine) -> None:
    _, client = await serve()
    engine.gate.clear()
    _, writer = await connect(client)
    body = {"model": "fake-model", "prompt": ["a", "b", "c"]}
    writer.write(post(body, "/v1/completions"))
    await wait_for(lambda: len(engine.running) == 3)
    writer.close()
    await wait_for(lambda: len(engine.aborted) == 3)
    assert not engine.running


async def test_leaving_while_the_body_is_sent_reaches_no_engine(
    serve: Serve, engine: FakeEngine
) -> None:
    state, client = await serve()
    _, writer = await connect(client)
    writer.write(post(HELLO)[:-5])
    await wait_for(lambda: state.in_flight)
    writer.close()
    await wait_for(lambda: not state.in_flight)
    assert not engine.submitted


async def test_a_finished_stream_is_no_abort(serve: Serve, engine: FakeEngine) -> None:
    state, client = await serve()
    for stream in (True, False):
        response = await client.post(CHAT, json={**HELLO, "stream": stream})
        assert response.status_code == 200
    await wait_for(lambda: not state.in_flight)
    assert not engine.aborted
    metrics = (await client.get("/metrics")).text
    assert 'windlass:client_disconnects_total{engine="0",model_name="fake-model"} 0.0' in metrics


async def test_a_reader_that_stalls_is_cut_off_and_others_go_on(
    serve: Serve, engine: FakeEngine
) -> None:
    state, client = await serve(write_timeout=0.2, max_body_bytes=10**7)
    # So much that the engine is still at it when the reader is cut off.
    engine.answer = "x" * 2000
    reader, writer = await connect(client, receive_buffer=4096)
    # An echoed prompt times many choices fills every buffer on the way.
    prompts = ["Hello " * 40] * 512
    body = {
        "model": "fake-model",
        "prompt": prompts,
        "max_tokens": 150,
        "echo": True,
        "stream": True,
        "logprobs": 20,
    }
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(post(body, "/v1/completions"))
    await wait_for(lambda: engine.submitted)
    quick = await client.post(CHAT, json=HELLO)
    assert quick.status_code == 200
    await wait_for(lambda: not state.in_flight)
    assert not engine.running
    assert engine.aborted
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_request_head_that_never_ends_is_cut_off(serve: Serve) -> None:
    _, client = await serve(header_timeout=0.1)
    reader, writer = await connect(client)
    writer.write(b"GET /health HTTP/1.1\r\nx-slow: ")
    assert await asyncio.wait_for(_read_to_end(reader), 10) == b""
    writer.close()


async def test_a_request_head_without_end_is_cut_off(serve: Serve) -> None:
    _, client = await serve()
    reader, writer = await connect(client)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nx-big: " + b"x" * 400_000)
    answer = await asyncio.wait_for(_read_to_end(reader), 10)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    writer.close()


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


async def test_a_slow_head_on_a_kept_connection_is_cut_off_too(serve: Serve) -> None:
    _, client = await serve(header_timeout=0.1)
    reader, writer = await connect(client)
    writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    await reader.readuntil(b'"ok"}')
    writer.write(b"GET /health HTTP/1.1\r\nx-slow: ")
    assert await asyncio.wait_for(_read_to_end(reader), 10) == b""
    writer.close()


async def test_the_head_s_clock_does_not_cut_off_a_long_answer(
    serve: Serve, engine: FakeEngine
) -> None:
    _, client = await serve(header_timeout=0.05)
    engine.gate.clear()
    asking = asyncio.create_task(client.post(CHAT, json=HELLO))
    await wait_for(lambda: engine.running)
    await asyncio.sleep(0.2)
    engine.gate.set()
    assert (await asking).status_code == 200


async def test_a_body_that_stalls_is_a_408(serve: Serve) -> None:
    _, client = await serve(body_timeout=0.1)
    reader, writer = await connect(client)
    writer.write(post(HELLO)[:-5])
    answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"error"' in answer
    writer.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    ],
)
async def test_what_is_no_http_is_a_400_in_the_same_shape(
    serve: Serve, request_bytes: bytes
) -> None:
    _, client = await serve()
    reader, writer = await connect(client)
    writer.write(request_bytes)
    answer = await asyncio.wait_for(reader.read(), 10)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    writer.close()
