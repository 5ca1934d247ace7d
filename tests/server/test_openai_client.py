"""What the `openai` client makes of overload, death and the end of the server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import openai
import pytest

from windlass.errors import QueueFullError

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, Serve

pytestmark = pytest.mark.anyio

HELLO: dict[str, Any] = {
    "model": "fake-model",
    "messages": [{"role": "user", "content": "Hello"}],
}


async def open_client(serve: Serve, **options: Any) -> openai.AsyncOpenAI:
    _, http = await serve()
    return openai.AsyncOpenAI(base_url=f"{http.base_url}/v1", api_key="none", **options)


async def test_the_client_comes_back_when_the_queue_has_room(
    serve: Serve, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, refused = engine.submit, 0

    async def submit_at_the_third_try(*args: Any, **kwargs: Any) -> Any:
        nonlocal refused
        if refused < 2:
            refused += 1
            raise QueueFullError("full", retry_after=0.01)
        return await submit(*args, **kwargs)

    monkeypatch.setattr(engine, "submit", submit_at_the_third_try)
    async with await open_client(serve) as client:
        answer = await client.chat.completions.create(**HELLO)
    assert answer.choices[0].message.content == engine.answer
    assert refused == 2


async def test_overload_without_retries_is_an_internal_server_error_with_a_code(
    serve: Serve, engine: FakeEngine
) -> None:
    engine.overload()
    async with await open_client(serve, max_retries=0) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(**HELLO)
    assert caught.value.status_code == 503
    assert caught.value.code == "server_overloaded"


async def test_a_permanent_failure_is_not_tried_again(serve: Serve, engine: FakeEngine) -> None:
    engine.die(retry_after=None)
    async with await open_client(serve, max_retries=5) as client:
        async with asyncio.timeout(5):
            with pytest.raises(openai.InternalServerError) as caught:
                await client.chat.completions.create(**HELLO)
    assert caught.value.code == "engine_dead"


async def test_an_error_inside_a_stream_is_raised(serve: Serve, engine: FakeEngine) -> None:
    engine.pause_after = 3
    async with await open_client(serve) as client:
        stream = await client.chat.completions.create(**HELLO, stream=True)
        await anext(stream)
        engine.die()
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
    assert caught.value.code == "engine_failed"
