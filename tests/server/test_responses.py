"""The Responses API: bodies, events, what is kept and whose it is."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from openai.types.responses.input_token_count_response import InputTokenCountResponse
from published_schema import check, parse_sse

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient, Serve

pytestmark = pytest.mark.anyio

ROUTE = "/v1/responses"
HELLO: dict[str, Any] = {"model": "fake-model", "input": "Hello"}
TOOL: dict[str, Any] = {
    "type": "function",
    "name": "haul",
    "description": "Haul a rope.",
    "parameters": {"type": "object", "properties": {"rope": {"type": "integer"}}},
    "strict": True,
}
CALL = '<tool_call>\n{"name": "haul", "arguments": {"rope": 3}}\n</tool_call>'
THOUGHT = "<think>Which rope?</think>The third one."


async def ask(client: httpx.AsyncClient, **change: Any) -> dict[str, Any]:
    response = await client.post(ROUTE, json={**HELLO, **change})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    check(body, Response)
    return body


async def stream(client: httpx.AsyncClient, **change: Any) -> list[dict[str, Any]]:
    """Return the events of a stream after checking each and their numbers."""
    response = await client.post(ROUTE, json={**HELLO, **change, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return checked_events(response.text)


def checked_events(text: str, first: int = 0) -> list[dict[str, Any]]:
    events = []
    for number, (name, data) in enumerate(parse_sse(text), first):
        check(data, ResponseStreamEvent)
        event = json.loads(data)
        assert event["type"] == name
        assert event["sequence_number"] == number
        events.append(event)
    return events


def prompts(engine: FakeEngine) -> list[str]:
    return [processed.prompt or "" for processed in engine.submitted]


async def test_a_response_has_text_usage_and_what_was_asked(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    body = await ask(client, metadata={"a": "b"}, temperature=0.5, user="somebody")
    assert body["status"] == "completed"
    (message,) = body["output"]
    assert message["content"] == [
        {"type": "output_text", "text": engine.answer, "annotations": [], "logprobs": []}
    ]
    assert body["metadata"] == {"a": "b"}
    assert body["temperature"] == 0.5
    assert body["user"] == "somebody"
    assert body["error"] is None
    assert "text" in body
    usage = body["usage"]
    assert usage["input_tokens_details"]["cached_tokens"] == 1
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


@pytest.mark.parametrize("answer", ["Plain.", THOUGHT, CALL, f"I will.{CALL}", THOUGHT + CALL])
async def test_a_stream_has_every_event_in_order_and_ends_as_the_whole_answer(
    client: httpx.AsyncClient, engine: FakeEngine, answer: str
) -> None:
    engine.answer = answer
    whole = await ask(client, tools=[TOOL], seed=1)
    events = await stream(client, tools=[TOOL], seed=1)
    names = [event["type"] for event in events]
    assert names[:2] == ["response.created", "response.in_progress"]
    assert names[-1] == "response.completed"
    assert without_ids(events[-1]["response"]) == without_ids(whole)
    rebuilt = replay(events[2:-1])
    assert rebuilt == events[-1]["response"]["output"]


def without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        changing = ("id", "call_id", "created_at", "completed_at")
        return {k: without_ids(v) for k, v in value.items() if k not in changing}
    return [without_ids(v) for v in value] if isinstance(value, list) else value


def replay(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the items together from their events, and check the order on the way."""
    items: list[dict[str, Any]] = []
    expected = ["response.output_item.added"]
    text = ""
    for event in events:
        name = event["type"]
        assert name in expected
        if name == "response.output_item.added":
            assert event["output_index"] == len(items)
            assert event["item"]["status"] == "in_progress"
            items.append(event["item"])
            text = ""
            kind = {
                "message": "output_text",
                "reasoning": "reasoning_text",
                "function_call": "function_call_arguments",
            }[event["item"]["type"]]
            deltas = [f"response.{kind}.delta", f"response.{kind}.done"]
            expected = deltas if kind.startswith("function") else ["response.content_part.added"]
        elif name == "response.content_part.added":
            assert event["part"]["text"] == ""
            expected = deltas
        elif name.endswith(".delta"):
            assert event["item_id"] == items[-1]["id"]
            text += event["delta"]
        elif name == "response.function_call_arguments.done":
            assert event["arguments"] == text
            expected = ["response.output_item.done"]
        elif name in ("response.output_text.done", "response.reasoning_text.done"):
            assert event["text"] == text
            expected = ["response.content_part.done"]
        elif name == "response.content_part.done":
            assert event["part"]["text"] == text
            expected = ["response.output_item.done"]
        else:
            items[-1] = event["item"]
            expected = ["response.output_item.added"]
    return items


async def test_reasoning_and_calls_are_items_of_their_own(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.answer = THOUGHT + CALL
    body = await ask(client, tools=[TOOL])
    reasoning, message, call = body["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Which rope?"}]
    assert reasoning["summary"] == []
    assert "encrypted_content" not in reasoning
    assert message["content"][0]["text"] == "The third one."
    assert (call["name"], json.loads(call["arguments"])) == ("haul", {"rope": 3})
    assert body["usage"]["output_tokens_details"]["reasoning_tokens"] > 0


async def test_too_few_tokens_make_it_incomplete(client: httpx.AsyncClient) -> None:
    body = await ask(client, max_output_tokens=3)
    assert body["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["output"][0]["status"] == "incomplete"
    events = await stream(client, max_output_tokens=3)
    assert events[-1]["type"] == "response.incomplete"


async def test_logprobs_come_with_the_text_when_asked_for(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    include = ["message.output_text.logprobs"]
    body = await ask(client, include=include, top_logprobs=2)
    entries = body["output"][0]["content"][0]["logprobs"]
    assert b"".join(bytes(e["bytes"]) for e in entries).decode() == engine.answer
    assert {len(entry["top_logprobs"]) for entry in entries} == {2}
    events = await stream(client, include=include, top_logprobs=2)
    streamed = [e for event in events if "delta" in event for e in event["logprobs"]]
    assert streamed == entries


async def test_a_conversation_goes_on_from_a_stored_response(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    first = await ask(client, input="My name is Ada.", instructions="Be brief.")
    second = await ask(client, input="And mine?", previous_response_id=first["id"])
    third = await ask(client, input="Third.", previous_response_id=second["id"])
    assert third["previous_response_id"] == second["id"]
    last = prompts(engine)[-1]
    positions = [last.index(t) for t in ("Ada", "And mine?", "Third.")]
    assert positions == sorted(positions)
    assert last.count(engine.answer) == 2
    assert "Be brief." in prompts(engine)[0]
    assert "Be brief." not in last


async def test_items_of_earlier_turns_reach_the_template(
    make_client: MakeClient, engine: FakeEngine
) -> None:
    engine.widen(4096)
    client = await make_client(chat_template="{{ messages | tojson }}")
    items: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Haul!"}]},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Which?"}],
        },
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Yes.", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c1", "name": "haul", "arguments": '{"rope": 3}'},
        {"type": "function_call", "call_id": "c2", "name": "haul", "arguments": '{"rope": 4}'},
        {"type": "function_call_output", "call_id": "c1", "output": "done"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "too"}],
        },
    ]
    await ask(client, input=items)
    messages = json.loads(prompts(engine)[0])
    assert [message["role"] for message in messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
    ]
    assistant = messages[2]
    assert (assistant["reasoning_content"], assistant["content"]) == ("Which?", "Yes.")
    assert [c["function"]["arguments"]["rope"] for c in assistant["tool_calls"]] == [3, 4]
    assert [m["content"] for m in messages[3:]] == ["done", "too"]


async def test_a_conversation_too_long_loses_its_oldest_turns_if_it_may(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    turns: list[dict[str, Any]] = []
    for number in range(12):
        turns.append({"role": "user", "content": f"Question {number} about many ropes."})
        turns.append({"role": "assistant", "content": f"Answer {number} about many ropes."})
    items = [*turns, {"role": "user", "content": "The last one?"}]
    options: dict[str, Any] = {"input": items, "instructions": "Be brief."}
    refused = await client.post(ROUTE, json={**HELLO, **options})
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    body = await ask(client, **options, truncation="auto", max_output_tokens=40)
    assert body["truncation"] == "auto"
    assert body["usage"]["input_tokens"] + 40 <= engine.info.max_model_len
    prompt = prompts(engine)[-1]
    assert "Be brief." in prompt
    assert "The last one?" in prompt
    kept = [number for number in range(12) if f"Question {number} " in prompt]
    assert kept == list(range(kept[0], 12))
    assert 0 < kept[0] < 11
    # One turn more would not have fitted.
    more = [*turns[2 * (kept[0] - 1) :], items[-1]]
    counted = await client.post(f"{ROUTE}/input_tokens", json={**HELLO, **options, "input": more})
    assert counted.status_code == 400 or (
        counted.json()["input_tokens"] + 40 > engine.info.max_model_len
    )


async def test_a_conversation_that_fits_is_left_alone(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await ask(client, truncation="auto")
    await ask(client)
    assert prompts(engine)[0] == prompts(engine)[1]


async def test_sealed_reasoning_comes_back_without_a_store(
    make_client: MakeClient, engine: FakeEngine
) -> None:
    engine.widen(4096)
    client = await make_client(chat_template="{{ messages | tojson }}")
    engine.answer = THOUGHT
    body = await ask(client, store=False, include=["reasoning.encrypted_content"])
    reasoning = body["output"][0]
    del reasoning["content"]
    await ask(client, store=False, input=[reasoning, {"role": "user", "content": "Go on"}])
    messages = json.loads(prompts(engine)[1])
    assert messages[0]["reasoning_content"] == "Which rope?"


async def test_an_item_may_be_named_instead_of_sent(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    first = await ask(client, input="Hello")
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    await ask(client, input=[reference, {"role": "user", "content": "Again"}])
    assert engine.answer in prompts(engine)[1]


async def test_a_response_is_retrieved_listed_and_deleted(client: httpx.AsyncClient) -> None:
    body = await ask(client, input=[{"role": "user", "content": str(n)} for n in range(5)])
    path = f"{ROUTE}/{body['id']}"
    assert (await client.get(path)).json() == body
    page = check((await client.get(f"{path}/input_items?limit=2&order=asc")).text, ResponseItemList)
    assert [item.content[0].text for item in page.data] == ["0", "1"]
    assert page.has_more
    rest = await client.get(f"{path}/input_items?order=asc&after={page.last_id}")
    texts = [item["content"][0]["text"] for item in rest.json()["data"]]
    assert texts == ["2", "3", "4"]
    newest = (await client.get(f"{path}/input_items?limit=1")).json()["data"]
    assert newest[0]["content"][0]["text"] == "4"
    deleted = await client.delete(path)
    assert deleted.json() == {"id": body["id"], "object": "response", "deleted": True}
    assert (await client.get(path)).status_code == 404
    assert (await client.delete(path)).status_code == 404


async def test_a_streamed_response_is_kept_too(client: httpx.AsyncClient) -> None:
    events = await stream(client)
    final = events[-1]["response"]
    assert (await client.get(f"{ROUTE}/{final['id']}")).json() == final


async def test_what_is_not_to_be_kept_is_not(client: httpx.AsyncClient) -> None:
    body = await ask(client, store=False)
    assert body["store"] is False
    assert (await client.get(f"{ROUTE}/{body['id']}")).status_code == 404


async def test_a_response_belongs_to_the_key_that_made_it(make_client: MakeClient) -> None:
    client = await make_client(api_keys=("one", "two"))
    mine, others = {"x-api-key": "one"}, {"authorization": "Bearer two"}
    body = (await client.post(ROUTE, json=HELLO, headers=mine)).json()
    path = f"{ROUTE}/{body['id']}"
    for suffix in ("", "/input_items"):
        assert (await client.get(path + suffix, headers=mine)).status_code == 200
        assert (await client.get(path + suffix, headers=others)).status_code == 404
    assert (await client.delete(path, headers=others)).status_code == 404
    follow_up = {**HELLO, "previous_response_id": body["id"]}
    assert (await client.post(ROUTE, json=follow_up, headers=others)).status_code == 400
    assert (await client.post(ROUTE, json=follow_up, headers=mine)).status_code == 200


async def test_a_background_response_runs_on_and_is_streamed_at_any_time(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.pause_after = 3
    body = await ask(client, background=True)
    assert (body["status"], body["output"]) == ("queued", [])
    path = f"{ROUTE}/{body['id']}"
    await engine.wait_paused()
    running = (await client.get(path)).json()
    assert running["status"] == "in_progress"
    engine.pause_after = None
    engine.gate.set()
    events = checked_events((await client.get(f"{path}?stream=true")).text)
    assert events[1]["type"] == "response.queued"
    assert events[-1]["type"] == "response.completed"
    done = (await client.get(path)).json()
    check(done, Response)
    assert done == events[-1]["response"]
    later = (await client.get(f"{path}?stream=true&starting_after=4")).text
    assert checked_events(later, first=5) == events[5:]


async def test_a_background_response_can_be_cancelled(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.pause_after = 3
    body = await ask(client, background=True)
    await engine.wait_paused()
    cancelled = await client.post(f"{ROUTE}/{body['id']}/cancel")
    assert cancelled.json()["status"] == "cancelled"
    assert not engine.running
    assert (await client.get(f"{ROUTE}/{body['id']}")).json()["status"] == "cancelled"
    engine.pause_after = None
    engine.gate.set()
    foreground = await ask(client)
    refused = await client.post(f"{ROUTE}/{foreground['id']}/cancel")
    assert refused.status_code == 400


async def test_background_responses_are_bounded(
    make_client: MakeClient, engine: FakeEngine
) -> None:
    client = await make_client(max_background_responses=2)
    engine.gate.clear()
    ids = [(await ask(client, background=True))["id"] for _ in range(2)]
    refused = await client.post(ROUTE, json={**HELLO, "background": True})
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    for response_id in ids:
        await client.post(f"{ROUTE}/{response_id}/cancel")
    assert (await client.post(ROUTE, json={**HELLO, "background": True})).status_code == 200


async def test_background_responses_that_begin_at_once_are_bounded(
    make_client: MakeClient, engine: FakeEngine
) -> None:
    client = await make_client(max_background_responses=2)
    engine.gate.clear()
    calls = (client.post(ROUTE, json={**HELLO, "background": True}) for _ in range(6))
    begun = [response.status_code for response in await asyncio.gather(*calls)]
    assert sorted(begun) == [200, 200, 503, 503, 503, 503]
    engine.gate.set()
    engine.gate.set()


async def test_a_failure_in_a_stream_is_the_last_event(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.pause_after = 3
    body = await ask(client, background=True)
    await engine.wait_paused()
    engine.die()
    events = checked_events((await client.get(f"{ROUTE}/{body['id']}?stream=true")).text)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["code"] == "server_error"


async def test_a_failure_while_the_client_reads_is_the_last_event(
    serve: Serve, engine: FakeEngine
) -> None:
    engine.pause_after = 3
    _, http = await serve()
    names = []
    async with openai.AsyncOpenAI(base_url=f"{http.base_url}/v1", api_key="x") as client:
        stream_of_events = await client.responses.create(**HELLO, stream=True)
        async for event in stream_of_events:
            names.append(event.type)
            if event.type == "response.output_text.delta":
                engine.die()
    assert names[-1] == "response.failed"
    assert names.count("response.output_item.done") == 1


async def test_a_client_that_hangs_up_ends_its_response(serve: Serve, engine: FakeEngine) -> None:
    engine.pause_after = 3
    state, http = await serve()
    async with http.stream("POST", ROUTE, json={**HELLO, "stream": True}) as response:
        await anext(response.aiter_lines())
    async with asyncio.timeout(5):
        while engine.running:
            await asyncio.sleep(0.01)
    assert len(state.responses) == 0


async def test_input_tokens_are_counted(client: httpx.AsyncClient) -> None:
    body = await ask(client, instructions="Be brief.", tools=[TOOL])
    asked = {**HELLO, "instructions": "Be brief.", "tools": [TOOL]}
    counted = await client.post(f"{ROUTE}/input_tokens", json=asked)
    count = check(counted.text, InputTokenCountResponse)
    assert count.input_tokens == body["usage"]["input_tokens"]


MISSING, TYPE, VALUE = "missing_required_parameter", "invalid_type", "invalid_value"
UNSUPPORTED = "unsupported_parameter"
FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"input": None}, "input", MISSING),
    ({"input": 3}, "input", TYPE),
    ({"input": []}, "input", MISSING),
    ({"input": ["x"]}, "input[0]", TYPE),
    ({"input": [{"role": "user"}]}, "input[0].content", MISSING),
    ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role", VALUE),
    ({"input": [{"type": "computer_call", "id": "x"}]}, "input[0].type", UNSUPPORTED),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        "input[0].content[0]",
        UNSUPPORTED,
    ),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].id", "item_not_found"),
    ({"input": [{"type": "function_call", "call_id": "x"}]}, "input[0].name", MISSING),
    (
        {"input": [{"type": "reasoning", "encrypted_content": "gAAA"}]},
        "input[0].encrypted_content",
        "invalid_encrypted_content",
    ),
    ({"previous_response_id": "x"}, "previous_response_id", "previous_response_not_found"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", UNSUPPORTED),
    ({"tools": [{"type": "function"}]}, "tools[0].name", MISSING),
    ({"tools": [TOOL, TOOL]}, "tools[1]", VALUE),
    ({"tool_choice": "required"}, "tool_choice", VALUE),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "x"}},
        "tool_choice.name",
        VALUE,
    ),
    ({"tools": [TOOL], "tool_choice": {"type": "file_search"}}, "tool_choice.type", UNSUPPORTED),
    ({"max_output_tokens": 0}, "max_output_tokens", VALUE),
    ({"max_tokens": 5}, "max_tokens", UNSUPPORTED),
    ({"n": 2}, "n", UNSUPPORTED),
    ({"truncation": "middle"}, "truncation", VALUE),
    ({"text": {"verbosity": "low"}}, "text.verbosity", UNSUPPORTED),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type", VALUE),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema", VALUE),
    ({"reasoning": {"context": "all_turns"}}, "reasoning.context", UNSUPPORTED),
    ({"thinking_token_budget": 5}, "thinking_token_budget", UNSUPPORTED),
    ({"return_token_ids": True}, "return_token_ids", UNSUPPORTED),
    ({"include": ["everything"]}, "include[0]", VALUE),
    ({"conversation": "conv_1"}, "conversation", UNSUPPORTED),
    ({"prompt": {"id": "x"}}, "prompt", UNSUPPORTED),
    ({"background": True, "store": False}, "background", VALUE),
    ({"temperature": 3}, "temperature", VALUE),
]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("change", "param", "code"), FAULTS)
async def test_a_fault_is_a_400_that_names_the_field(
    client: httpx.AsyncClient, change: dict[str, Any], param: str, code: str, streamed: bool
) -> None:
    response = await client.post(ROUTE, json={**HELLO, "stream": streamed, **change})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


async def test_a_format_of_the_text_reaches_the_engine(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    text = {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}
    body = await ask(client, text=text)
    assert body["text"] == text
    constraint = engine.submitted[0].sampling.structured_outputs
    assert constraint is not None
    assert constraint.grammar is not None  # behind the reasoning that this model may write
    assert json.dumps(schema) in constraint.grammar


async def test_what_codex_sends_is_accepted(client: httpx.AsyncClient) -> None:
    events = await stream(
        client,
        instructions="You are a coding agent.",
        input=[
            {
                "type": "message",
                "role": "developer",
                "content": [{"type": "input_text", "text": "Rules."}],
            },
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Go."}]},
        ],
        tools=[TOOL],
        tool_choice="auto",
        parallel_tool_calls=False,
        reasoning={"effort": "medium", "summary": "auto"},
        store=False,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="session",
        client_metadata={"x": "y"},
    )
    assert events[-1]["type"] == "response.completed"
