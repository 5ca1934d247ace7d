"""Anthropic's messages: blocks, events in order, and their error shape everywhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import pytest
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from published_schema import check, parse_sse

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient, Serve

pytestmark = pytest.mark.anyio

ROUTE = "/v1/messages"
HELLO: dict[str, Any] = {
    "model": "fake-model",
    "max_tokens": 200,
    "messages": [{"role": "user", "content": "Hello"}],
}
TOOL: dict[str, Any] = {
    "name": "haul",
    "description": "Haul a rope.",
    "input_schema": {"type": "object", "properties": {"rope": {"type": "integer"}}},
    "cache_control": {"type": "ephemeral"},
}
CALL = '<tool_call>\n{"name": "haul", "arguments": {"rope": 3}}\n</tool_call>'
THOUGHT = "<think>Which rope?</think>The third one."
THINKING = {"type": "enabled", "budget_tokens": 1024}
MESSAGES = "{{ messages | tojson }}"


async def ask(client: httpx.AsyncClient, **change: Any) -> dict[str, Any]:
    response = await client.post(ROUTE, json={**HELLO, **change})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    check(body, Message)
    return body


async def stream(client: httpx.AsyncClient, **change: Any) -> list[dict[str, Any]]:
    response = await client.post(ROUTE, json={**HELLO, **change, "stream": True})
    assert response.status_code == 200, response.text
    events = []
    for name, data in parse_sse(response.text):
        event = json.loads(data)
        assert event["type"] == name
        if name != "ping":
            check(data, RawMessageStreamEvent)
            events.append(event)
    return events


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert set(body["error"]) == {"type", "message"}
    assert body["request_id"] == response.headers["request-id"]
    error: dict[str, Any] = body["error"]
    return error


def prompts(engine: FakeEngine) -> list[str]:
    return [processed.prompt or "" for processed in engine.submitted]


async def test_a_message_has_text_and_usage(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = await ask(client, metadata={"user_id": "x"}, temperature=0.5, top_k=5)
    assert body["content"] == [{"type": "text", "text": engine.answer}]
    assert (body["stop_reason"], body["stop_sequence"]) == ("end_turn", None)
    usage = body["usage"]
    assert usage["cache_read_input_tokens"] == 1
    prompt_tokens = len(engine.submitted[0].prompt_token_ids)
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == prompt_tokens
    assert engine.submitted[0].sampling.top_k == 5


@pytest.mark.parametrize("answer", ["Plain.", THOUGHT, CALL, f"I will.{CALL}", THOUGHT + CALL])
async def test_a_stream_has_every_event_in_order_and_says_what_the_whole_says(
    client: httpx.AsyncClient, engine: FakeEngine, answer: str
) -> None:
    engine.answer = answer
    more: dict[str, Any] = {"tools": [TOOL], "thinking": THINKING}
    whole = await ask(client, **more)
    events = await stream(client, **more)
    assert events[0]["type"] == "message_start"
    assert events[0]["message"]["content"] == []
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    assert events[-2]["delta"]["stop_reason"] == whole["stop_reason"]
    assert events[-2]["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    assert without_ids(replay(events[1:-2])) == without_ids(whole["content"])


def without_ids(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in block.items() if k != "id"} for block in blocks]


def replay(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the blocks together from their events, and check the order on the way."""
    blocks: list[dict[str, Any]] = []
    text, expected = "", ["content_block_start"]
    for event in events:
        assert event["type"] in expected
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"])
            assert event["index"] == len(blocks) - 1
            text, expected = "", ["content_block_delta", "content_block_stop"]
        elif event["type"] == "content_block_delta":
            assert event["index"] == len(blocks) - 1
            delta = event["delta"]
            text += (
                delta.get("text", "") + delta.get("thinking", "") + delta.get("partial_json", "")
            )
        else:
            expected = ["content_block_start"]
            if blocks[-1]["type"] == "tool_use":
                blocks[-1]["input"] = json.loads(text)
            else:
                blocks[-1][blocks[-1]["type"]] = text
    return blocks


async def test_thinking_is_shown_when_it_is_enabled(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.answer = THOUGHT
    body = await ask(client, thinking=THINKING)
    assert body["content"] == [
        {"type": "thinking", "thinking": "Which rope?", "signature": ""},
        {"type": "text", "text": "The third one."},
    ]
    assert body["usage"]["output_tokens_details"]["thinking_tokens"] > 0
    for other in ({"type": "disabled"}, None):
        body = await ask(client, thinking=other)
        assert body["content"] == [{"type": "text", "text": "The third one."}]
    body = await ask(client, thinking={"type": "adaptive", "display": "omitted"})
    assert body["content"][0] == {"type": "thinking", "thinking": "", "signature": ""}


async def test_a_tool_is_used(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.answer = CALL
    body = await ask(client, tools=[TOOL])
    (block,) = body["content"]
    assert (block["name"], block["input"]) == ("haul", {"rope": 3})
    assert block["id"].startswith("toolu_")
    assert body["stop_reason"] == "tool_use"


async def test_a_stop_sequence_and_the_limit_are_reasons_to_stop(client: httpx.AsyncClient) -> None:
    body = await ask(client, stop_sequences=["never", "hauls"])
    assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", "hauls")
    assert body["content"][0]["text"] == "Üben: the windlass "
    assert (await ask(client, max_tokens=2))["stop_reason"] == "max_tokens"


async def test_what_an_agent_sends_reaches_the_template(
    make_client: MakeClient, engine: FakeEngine
) -> None:
    engine.widen(4096)
    client = await make_client(chat_template=MESSAGES)
    cached = {"cache_control": {"type": "ephemeral"}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "Haul!", **cached}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Which?", "signature": "x"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "I will."},
                {"type": "tool_use", "id": "t1", "name": "haul", "input": {"rope": 3}},
                {"type": "tool_use", "id": "t2", "name": "haul", "input": {"rope": 4}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "done"},
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "is_error": True,
                    "content": [{"type": "text", "text": "stuck"}],
                },
                {"type": "text", "text": "Well?"},
            ],
        },
    ]
    system = [{"type": "text", "text": "Be brief.", **cached}, {"type": "text", "text": "Really."}]
    await ask(client, messages=messages, system=system, tools=[TOOL])
    seen = json.loads(prompts(engine)[0])
    roles = [message["role"] for message in seen]
    assert roles == ["system", "user", "assistant", "tool", "tool", "user"]
    assert seen[0]["content"] == "Be brief.\nReally."
    assert (seen[2]["reasoning_content"], seen[2]["content"]) == ("Which?", "I will.")
    assert [c["function"]["arguments"]["rope"] for c in seen[2]["tool_calls"]] == [3, 4]
    assert [m["content"] for m in seen[3:]] == ["done", "Error: stuck", "Well?"]
    assert seen[3]["name"] == "haul"


async def test_the_assistant_s_last_words_are_gone_on_with(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await ask(client, messages=[*HELLO["messages"], {"role": "assistant", "content": "Once upon"}])
    assert prompts(engine)[0].endswith("Once upon")


async def test_tokens_are_counted(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    asked = {k: v for k, v in HELLO.items() if k != "max_tokens"}
    response = await client.post(f"{ROUTE}/count_tokens", json={**asked, "tools": [TOOL]})
    count = check(response.text, MessageTokensCount)
    await ask(client, tools=[TOOL])
    assert count.input_tokens == len(engine.submitted[0].prompt_token_ids)


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": ...}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "image"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "content[0].text"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "tool_use_id"),
    ({"temperature": 1.5}, "temperature"),
    ({"stop_sequences": [""]}, "stop"),
    ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
    ({"tools": [{"name": "x", "type": "web_search_20250305"}]}, "web_search"),
    ({"tools": [TOOL, TOOL]}, "tools[1]"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name"),
    ({"thinking": {"type": "enabled"}}, "budget_tokens"),
    ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("change", "says"), FAULTS)
async def test_a_fault_has_anthropic_s_error_shape(
    client: httpx.AsyncClient, change: dict[str, Any], says: str, streamed: bool
) -> None:
    merged = {**HELLO, "stream": streamed, **change}
    body = {name: value for name, value in merged.items() if value is not ...}
    response = await client.post(ROUTE, json=body)
    assert response.status_code == 400, response.text
    error = error_of(response)
    assert error["type"] == "invalid_request_error"
    assert says in error["message"]


async def test_every_other_error_has_it_too(make_client: MakeClient, engine: FakeEngine) -> None:
    client = await make_client(api_keys=("key",), max_body_bytes=1000)
    key = {"x-api-key": "key", "anthropic-version": "2023-06-01", "anthropic-beta": "x"}
    long = {**HELLO, "messages": [{"role": "user", "content": "x" * 2000}]}
    cases = [
        (await client.post(ROUTE, json=HELLO), 401, "authentication_error"),
        (await client.post(ROUTE, json=long, headers=key), 413, "request_too_large"),
        (await client.post(f"{ROUTE}/x", json=HELLO, headers=key), 404, "not_found_error"),
        (await client.get(ROUTE, headers=key), 405, "invalid_request_error"),
        (await client.post(ROUTE, content=b"{", headers=key), 415, "invalid_request_error"),
        (
            await client.post(ROUTE, json={**HELLO, "model": "other"}, headers=key),
            404,
            "not_found_error",
        ),
    ]
    engine.overload()
    cases.append((await client.post(ROUTE, json=HELLO, headers=key), 503, "overloaded_error"))
    for response, status, kind in cases:
        assert response.status_code == status
        assert error_of(response)["type"] == kind


async def test_a_failure_inside_a_stream_is_an_error_event(
    serve: Serve, engine: FakeEngine
) -> None:
    engine.pause_after = 3
    _, http = await serve()
    client = anthropic.AsyncAnthropic(base_url=str(http.base_url), api_key="x", max_retries=0)
    received = []

    async def read() -> None:
        async with client.messages.stream(**HELLO) as events:
            async for event in events:
                received.append(event.type)
                if event.type == "content_block_delta":
                    engine.die()

    async with client:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await read()
    assert "message_start" in received
    assert caught.value.body["error"]["type"] == "api_error"  # type: ignore[index]
    assert caught.value.body["request_id"]  # type: ignore[index]
