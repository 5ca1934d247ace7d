"""Tools and reasoning in chat completions: parsed once, the same streamed and whole."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from published_schema import check, parse_sse

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {
    "model": "fake-model",
    "messages": [{"role": "user", "content": "Hello"}],
}


def tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"rope": {"type": "integer"}}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


HAUL, CAST = tool("haul"), tool("cast")


def call(name: str, rope: int) -> str:
    arguments = json.dumps({"name": name, "arguments": {"rope": rope}})
    return f"<tool_call>\n{arguments}\n</tool_call>"


THOUGHT = "<think>Which rope?</think>"
ANSWERS = {
    "text": "Plain text.",
    "call": call("haul", 3),
    "calls": call("haul", 3) + "\n" + call("cast", 4),
    "text and call": "I will haul. " + call("haul", 3),
    "reasoning and text": THOUGHT + "\n\nThe third one.",
    "reasoning and call": THOUGHT + "\n\n" + call("haul", 3),
}


async def ask(client: httpx.AsyncClient, **change: Any) -> dict[str, Any]:
    response = await client.post(CHAT, json={**HELLO, "tools": [HAUL, CAST], **change})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    check(body, ChatCompletion)
    return body


async def stream(client: httpx.AsyncClient, **change: Any) -> list[dict[str, Any]]:
    body = {**HELLO, "tools": [HAUL, CAST], **change, "stream": True}
    response = await client.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    data = [data for _, data in parse_sse(response.text)]
    assert data.pop() == "[DONE]"
    for chunk in data:
        check(chunk, ChatCompletionChunk)
    return [json.loads(chunk) for chunk in data]


def joined(chunks: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """Put the message together again, as clients do; returns it with the finish reason."""
    message: dict[str, Any] = {"content": None, "reasoning": "", "tool_calls": []}
    reason = None
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        assert reason is None, "nothing comes after the end"
        delta, reason = choice["delta"], choice["finish_reason"]
        assert delta.get("reasoning") == delta.get("reasoning_content")
        message["reasoning"] += delta.get("reasoning", "")
        if delta.get("content"):
            message["content"] = (message["content"] or "") + delta["content"]
        for part in delta.get("tool_calls", ()):
            if "id" in part:
                assert part["type"] == "function"
                assert part["index"] == len(message["tool_calls"])
                function = {"name": part["function"]["name"], "arguments": ""}
                message["tool_calls"].append({"id": part["id"], "function": function})
            arguments = part["function"]["arguments"]
            message["tool_calls"][part["index"]]["function"]["arguments"] += arguments
    assert reason is not None
    return message, reason


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_a_stream_says_what_the_whole_answer_says(
    client: httpx.AsyncClient, engine: FakeEngine, answer: str
) -> None:
    engine.answer = answer
    whole = (await ask(client))["choices"][0]
    message, reason = joined(await stream(client))
    assert reason == whole["finish_reason"]
    assert message["content"] == whole["message"]["content"]
    assert message["reasoning"] == whole["message"].get("reasoning", "")
    calls = [c["function"] for c in whole["message"].get("tool_calls", ())]
    assert [c["function"] for c in message["tool_calls"]] == calls


async def test_calls_have_ids_names_and_arguments(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.answer = ANSWERS["calls"]
    choice = (await ask(client))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    first, second = choice["message"]["tool_calls"]
    assert first["id"] != second["id"]
    assert (first["function"]["name"], json.loads(first["function"]["arguments"])) == (
        "haul",
        {"rope": 3},
    )
    assert second["function"]["name"] == "cast"


async def test_reasoning_stands_under_both_names_and_is_counted(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.answer = ANSWERS["reasoning and text"]
    body = await ask(client)
    message = body["choices"][0]["message"]
    assert message["reasoning"] == message["reasoning_content"] == "Which rope?"
    assert message["content"].strip() == "The third one."
    details = body["usage"]["completion_tokens_details"]
    assert 0 < details["reasoning_tokens"] < body["usage"]["completion_tokens"]
    chunks = await stream(client, stream_options={"include_usage": True})
    assert chunks[-1]["usage"] == body["usage"]


async def test_without_reasoning_its_keys_are_absent(client: httpx.AsyncClient) -> None:
    body = await ask(client)
    message = body["choices"][0]["message"]
    assert set(message) == {"role", "content", "refusal"}
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}


async def test_several_answers_are_parsed_apart(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.answer = ANSWERS["reasoning and call"]
    body = await ask(client, n=3)
    names = [c["message"]["tool_calls"][0]["function"]["name"] for c in body["choices"]]
    assert names == ["haul"] * 3
    ids = {c["message"]["tool_calls"][0]["id"] for c in body["choices"]}
    assert len(ids) == 3


async def test_logprobs_cover_every_token_of_a_call(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.answer = ANSWERS["call"]
    body = await ask(client, logprobs=True)
    entries = body["choices"][0]["logprobs"]["content"]
    assert len(entries) == body["usage"]["completion_tokens"]
    chunks = await stream(client, logprobs=True)
    parts = [choice["logprobs"] for chunk in chunks for choice in chunk["choices"]]
    streamed = [entry for part in parts if part for entry in part["content"]]
    assert streamed == entries


async def test_a_call_cut_off_ends_with_length(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.answer = "I will." + ANSWERS["call"]
    body = await ask(client, max_tokens=3)
    assert body["choices"][0]["finish_reason"] == "length"


async def test_none_shows_the_model_no_tools_and_parses_no_calls(
    make_client: MakeClient, engine: FakeEngine
) -> None:
    client = await make_client(chat_template="{{ tools | default('none', true) | length }}")
    engine.answer = ANSWERS["call"]
    await ask(client)
    choice = (await ask(client, tool_choice="none"))["choices"][0]
    assert choice["message"]["content"] == engine.answer
    assert choice["finish_reason"] == "stop"
    assert [p.prompt for p in engine.submitted] == ["2", "4"]


async def test_a_tool_that_the_client_named_ends_with_stop(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.answer = ANSWERS["call"]
    named = {"type": "function", "function": {"name": "haul"}}
    choice = (await ask(client, tool_choice=named))["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "haul"
    _, reason = joined(await stream(client, tool_choice=named))
    assert reason == "stop"


async def test_what_was_said_and_called_before_reaches_the_template(
    make_client: MakeClient, engine: FakeEngine
) -> None:
    engine.widen(4096)
    client = await make_client(chat_template="{{ messages | tojson }}")
    function = {"name": "haul", "arguments": '{"rope": 3}'}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "reasoning": "R",
            "tool_calls": [{"id": "1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "done"},
        {"role": "assistant", "reasoning_content": "S", "content": "ok"},
        {"role": "assistant", "function_call": function},
    ]
    await ask(client, messages=messages)
    seen = json.loads(engine.submitted[0].prompt or "")
    assert seen[0]["content"] == "a\nb"
    assert seen[1]["reasoning_content"] == seen[1]["reasoning"] == "R"
    assert seen[1]["tool_calls"][0]["function"]["arguments"] == {"rope": 3}
    assert seen[3]["reasoning"] == "S"
    assert seen[4]["tool_calls"][0]["function"]["name"] == "haul"


async def test_effort_none_tells_the_template_not_to_think(
    make_client: MakeClient, engine: FakeEngine
) -> None:
    client = await make_client(chat_template="{{ enable_thinking }} {{ reasoning_effort }}")
    await ask(client, reasoning_effort="none")
    await ask(client, reasoning_effort="low", chat_template_kwargs={"enable_thinking": True})
    assert [p.prompt for p in engine.submitted] == ["False none", "True low"]


async def test_tokens_come_when_asked_for(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.answer = ANSWERS["reasoning and call"]
    body = await ask(client, return_token_ids=True)
    assert body["prompt_token_ids"] == engine.submitted[0].prompt_token_ids
    token_ids = body["choices"][0]["token_ids"]
    assert len(token_ids) == body["usage"]["completion_tokens"]
    chunks = await stream(client, return_token_ids=True)
    assert chunks[0]["prompt_token_ids"] == body["prompt_token_ids"]
    parts = [choice.get("token_ids", []) for chunk in chunks for choice in chunk["choices"]]
    assert [token for part in parts for token in part] == token_ids


async def test_tokens_may_be_written_as_ids(client: httpx.AsyncClient) -> None:
    options = {"logprobs": True, "top_logprobs": 1, "return_tokens_as_token_ids": True}
    body = await ask(client, **options, return_token_ids=True)
    choice = body["choices"][0]
    texts = [entry["token"] for entry in choice["logprobs"]["content"]]
    assert texts == [f"token_id:{token}" for token in choice["token_ids"]]


async def test_the_tier_is_told_when_one_was_asked_for(client: httpx.AsyncClient) -> None:
    assert (await ask(client, service_tier="auto"))["service_tier"] == "default"
    assert "service_tier" not in await ask(client)


async def test_the_number_and_size_of_tools_are_bounded(make_client: MakeClient) -> None:
    client = await make_client(max_tools=3, max_tool_bytes=1000)

    async def status(**change: Any) -> int:
        return (await client.post(CHAT, json={**HELLO, **change})).status_code

    assert await status(tools=[tool(f"t{n}") for n in range(3)]) == 200
    assert await status(tools=[tool(f"t{n}") for n in range(4)]) == 400

    def sized(size: int) -> list[dict[str, Any]]:
        empty = {"type": "object", "properties": {}}
        one = {
            "type": "function",
            "function": {"name": "t", "description": "", "parameters": empty},
        }
        room = size - len(json.dumps([one], separators=(",", ":")))
        one["function"]["description"] = "d" * room  # type: ignore[index]
        return [one]

    assert await status(tools=sized(1000)) == 200
    assert await status(tools=sized(1001)) == 400


async def test_the_number_of_messages_is_bounded(make_client: MakeClient) -> None:
    client = await make_client(max_messages=3)
    for count, status in ((3, 200), (4, 400)):
        body = {**HELLO, "messages": [{"role": "user", "content": "x"}] * count}
        assert (await client.post(CHAT, json=body)).status_code == status
