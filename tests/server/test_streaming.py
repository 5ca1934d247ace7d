"""A stream says what the whole answer says, in OpenAI's chunks, and always ends."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from openai.types.chat import ChatCompletionChunk

from windlass.errors import RequestFailedError

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, Serve

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HELLO: dict[str, Any] = {
    "model": "fake-model",
    "messages": [{"role": "user", "content": "Hello"}],
}
PROMPT: dict[str, Any] = {"model": "fake-model", "prompt": "Hello"}


def events(text: str) -> list[dict[str, Any]]:
    """Parse a stream and check that [DONE] comes once, at its end."""
    blocks = text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") for block in blocks)
    data = [block.removeprefix("data: ") for block in blocks]
    assert data.count("[DONE]") == 1
    assert data.pop() == "[DONE]"
    return [json.loads(block) for block in data]


async def stream(
    client: httpx.AsyncClient, route: str, body: dict[str, Any]
) -> list[dict[str, Any]]:
    response = await client.post(route, json={**body, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert "content-length" not in response.headers
    return events(response.text)


def joined(chunks: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Put the choices of a stream together again."""
    choices: dict[int, dict[str, Any]] = defaultdict(
        lambda: {"text": "", "finish_reason": None, "logprobs": defaultdict(list)}
    )
    for chunk in chunks:
        for part in chunk["choices"]:
            choice = choices[part["index"]]
            assert choice["finish_reason"] is None, "nothing comes after the end"
            choice["text"] += part["delta"].get("content", "") if "delta" in part else part["text"]
            choice["finish_reason"] = part["finish_reason"]
            for key, values in (part["logprobs"] or {}).items():
                choice["logprobs"][key] += values or []
    return choices


ENDINGS: list[dict[str, Any]] = [{}, {"stop": ["hauls 3"]}, {"max_tokens": 5}, {"stop": ["猫"]}]
USAGE: list[dict[str, Any]] = [{}, {"stream_options": {"include_usage": True}}]
KEPT_STOP: list[dict[str, Any]] = [{}, {"include_stop_str_in_output": True}]
OPTIONS = [
    {**choices, **ending, **usage, **kept}
    for choices, ending, usage, kept in itertools.product([{}, {"n": 3}], ENDINGS, USAGE, KEPT_STOP)
]


def without_stream_options(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "stream_options"}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("logprobs", [False, True])
async def test_a_chat_stream_equals_the_whole_answer(
    client: httpx.AsyncClient, options: dict[str, Any], logprobs: bool
) -> None:
    body = {**HELLO, **options}
    if logprobs:
        body |= {"logprobs": True, "top_logprobs": 2}
    whole = (await client.post(CHAT, json=without_stream_options(body))).json()
    chunks = await stream(client, CHAT, body)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    choices = joined(chunks)
    assert len(choices) == body.get("n", 1)
    for expected in whole["choices"]:
        choice = choices[expected["index"]]
        assert choice["text"] == expected["message"]["content"]
        assert choice["finish_reason"] == expected["finish_reason"]
        if logprobs:
            assert choice["logprobs"]["content"] == expected["logprobs"]["content"]
    if "stream_options" in body:
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"] == whole["usage"]
        assert all(chunk["usage"] is None for chunk in chunks[:-1])
    else:
        assert all("usage" not in chunk for chunk in chunks)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("more", [{}, {"logprobs": 2}, {"logprobs": 1, "echo": True}])
@pytest.mark.parametrize("prompt", ["Hello", ["Hello", "Good day to you"]])
async def test_a_completion_stream_equals_the_whole_answer(
    client: httpx.AsyncClient,
    options: dict[str, Any],
    more: dict[str, Any],
    prompt: str | list[str],
) -> None:
    body = {**PROMPT, "max_tokens": 200, **options, **more, "prompt": prompt}
    whole = (await client.post(TEXT, json=without_stream_options(body))).json()
    chunks = await stream(client, TEXT, body)
    choices = joined(chunks)
    for expected in whole["choices"]:
        choice = choices[expected["index"]]
        assert choice["text"] == expected["text"]
        assert choice["finish_reason"] == expected["finish_reason"]
        assert dict(choice["logprobs"]) == (expected["logprobs"] or {})
    if "stream_options" in body:
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"] == whole["usage"]


async def test_the_role_comes_first_and_once(client: httpx.AsyncClient) -> None:
    chunks = await stream(client, CHAT, {**HELLO, "n": 2})
    for index in (0, 1):
        deltas = [c["delta"] for ch in chunks for c in ch["choices"] if c["index"] == index]
        assert deltas[0] == {"role": "assistant", "content": ""}
        assert all("role" not in delta for delta in deltas[1:])


async def test_no_piece_of_text_holds_a_broken_character(client: httpx.AsyncClient) -> None:
    chunks = await stream(client, CHAT, HELLO)
    for chunk in chunks:
        assert "\ufffd" not in chunk["choices"][0]["delta"].get("content", "")


async def test_continuous_usage_grows_to_the_final_one(client: httpx.AsyncClient) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = await stream(client, CHAT, {**HELLO, "stream_options": options})
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-2] == counts[-1]


async def test_what_fails_before_the_first_token_has_a_status_of_its_own(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.gate.clear()
    asking = asyncio.create_task(client.post(CHAT, json={**HELLO, "stream": True}))
    await wait_for(lambda: engine.running)
    engine.die()
    response = await asking
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "engine_failed"


async def wait_for(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("kill", "code"),
    [("die", "engine_failed"), ("fail", "request_failed")],
)
async def test_what_fails_later_is_an_event_and_then_done(
    serve: Serve, engine: FakeEngine, kill: str, code: str
) -> None:
    _, client = await serve()
    engine.pause_after = 3
    body = {**HELLO, "stream": True}
    async with client.stream("POST", CHAT, json=body) as response:
        assert response.status_code == 200
        pieces = response.aiter_text()
        text = await anext(pieces)
        if kill == "die":
            engine.die()
        else:
            engine.fail("req-0", RequestFailedError("not a number at /root/x.py"))
        async for piece in pieces:
            text += piece
    *chunks, last = events(text)
    assert set(last) == {"error"}
    assert last["error"]["code"] == code
    assert last["error"]["type"] == "server_error"
    assert "root" not in text
    assert all(c["finish_reason"] is None for chunk in chunks for c in chunk["choices"])


async def test_a_failure_of_a_whole_answer_is_a_500(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    for error, retry in ((None, "true"), (RequestFailedError("x"), "false")):
        engine.gate.clear()
        asking = asyncio.create_task(client.post(CHAT, json=HELLO))
        await wait_for(lambda: engine.running)
        if error is None:
            engine.die()
        else:
            engine.fail(next(iter(engine.running)), error)
        response = await asking
        assert response.status_code == 500
        assert response.headers["x-should-retry"] == retry
        engine.dead = None


async def test_comments_keep_the_connection_alive_until_the_first_token(
    serve: Serve, engine: FakeEngine
) -> None:
    _, client = await serve(keep_alive_interval=0.02)
    engine.gate.clear()
    async with client.stream("POST", CHAT, json={**HELLO, "stream": True}) as response:
        pieces = response.aiter_text()
        text = await anext(pieces)
        assert text.startswith(": keep-alive\n\n")
        engine.gate.set()
        async for piece in pieces:
            text += piece
    comments, first, rest = text.partition("data: ")
    assert set(comments.split("\n\n")) == {": keep-alive", ""}
    assert joined(events(first + rest))[0]["finish_reason"] == "stop"
