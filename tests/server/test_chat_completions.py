"""Whole chat answers: shape, fields and what reaches the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from openai.types.chat import ChatCompletion

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient

pytestmark = pytest.mark.anyio

HELLO: dict[str, Any] = {
    "model": "fake-model",
    "messages": [{"role": "user", "content": "Hello"}],
}


async def ask(client: httpx.AsyncClient, **change: Any) -> dict[str, Any]:
    response = await client.post("/v1/chat/completions", json={**HELLO, **change})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_the_answer_fits_openai_s_schema_strictly(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    body = await ask(client)
    parsed = ChatCompletion.model_validate(body, strict=True)
    assert parsed.choices[0].message.content == engine.answer
    assert parsed.choices[0].finish_reason == "stop"
    assert set(body) == {"id", "object", "created", "model", "choices", "usage"}
    (choice,) = body["choices"]
    assert choice == {
        "index": 0,
        "finish_reason": "stop",
        "logprobs": None,
        "message": {"role": "assistant", "content": engine.answer, "refusal": None},
    }
    assert body["id"].startswith("chatcmpl-")


async def test_usage_counts_prompt_output_and_cached_tokens(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    usage = (await ask(client, n=2, max_tokens=3))["usage"]
    (processed,) = engine.submitted
    prompt_tokens = len(processed.prompt_token_ids)
    assert usage == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 6,
        "total_tokens": prompt_tokens + 6,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


async def test_logprobs_have_both_keys_bytes_and_the_most_probable_tokens(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    body = await ask(client, logprobs=True, top_logprobs=3)
    ChatCompletion.model_validate(body, strict=True)
    logprobs = body["choices"][0]["logprobs"]
    assert set(logprobs) == {"content", "refusal"}
    assert logprobs["refusal"] is None
    entries = logprobs["content"]
    # The last token ends the text and has none of its own.
    joined = b"".join(bytes(entry["bytes"]) for entry in entries[:-1])
    assert joined.decode() == engine.answer
    for entry in entries:
        assert set(entry) == {"token", "logprob", "bytes", "top_logprobs"}
        values = [top["logprob"] for top in entry["top_logprobs"]]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
        assert entry["top_logprobs"][0]["token"] == entry["token"]


async def test_logprobs_without_a_count_have_no_alternatives(client: httpx.AsyncClient) -> None:
    body = await ask(client, logprobs=True)
    entries = body["choices"][0]["logprobs"]["content"]
    assert {len(entry["top_logprobs"]) for entry in entries} == {0}


async def test_prompt_logprobs_come_only_when_asked_for(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    body = await ask(client, prompt_logprobs=1)
    prompt_logprobs = body["prompt_logprobs"]
    assert len(prompt_logprobs) == len(engine.submitted[0].prompt_token_ids)
    assert prompt_logprobs[0] is None
    assert next(iter(prompt_logprobs[1].values()))["logprob"] == -0.5


async def test_a_stop_string_ends_the_answer_and_is_left_out(client: httpx.AsyncClient) -> None:
    choice = (await ask(client, stop=["hauls", "never"]))["choices"][0]
    assert choice["message"]["content"] == "Üben: the windlass "
    assert choice["finish_reason"] == "stop"


async def test_a_stop_string_may_be_kept(client: httpx.AsyncClient) -> None:
    choice = (await ask(client, stop="hauls", include_stop_str_in_output=True))["choices"][0]
    assert choice["message"]["content"] == "Üben: the windlass hauls"


async def test_too_few_tokens_end_with_length(client: httpx.AsyncClient) -> None:
    for field in ("max_tokens", "max_completion_tokens"):
        body = await ask(client, **{field: 4})
        assert body["choices"][0]["finish_reason"] == "length"
        assert body["usage"]["completion_tokens"] == 4


async def test_without_a_limit_the_context_is_the_limit(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await ask(client)
    processed = engine.submitted[0]
    room = engine.info.max_model_len - len(processed.prompt_token_ids)
    assert processed.sampling.max_tokens == room


async def test_every_sampling_field_reaches_the_engine(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    fields: dict[str, Any] = {
        "temperature": 0.25,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.125,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.25,
        "seed": 42,
        "ignore_eos": True,
        "min_tokens": 2,
        "skip_special_tokens": False,
    }
    change = {**fields, "stop_token_ids": [9], "logit_bias": {"7": -2.5}, "cache_salt": "tenant"}
    await ask(client, **change)
    processed = engine.submitted[0]
    for name, value in fields.items():
        assert getattr(processed.sampling, name) == value
    assert tuple(processed.sampling.stop_token_ids) == (9,)
    assert processed.sampling.logit_bias == {7: -2.5}
    assert processed.requests[0].cache_salt == "tenant"


async def test_what_is_not_said_comes_from_the_model_s_own_defaults(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await ask(client, temperature=None)
    await ask(client, temperature=0)
    assert [p.sampling.temperature for p in engine.submitted] == [0.7, 0.0]


async def test_priority_reaches_the_engine_under_that_policy(
    make_client: MakeClient, engine: FakeEngine
) -> None:
    client = await make_client(priority_scheduling=True)
    await ask(client, priority=-3)
    assert engine.submitted[0].requests[0].priority == -3


def prompts(engine: FakeEngine) -> list[str]:
    return [
        engine.tokenizer.decode(p.prompt_token_ids, skip_special_tokens=False)
        for p in engine.submitted
    ]


async def test_content_may_be_a_list_of_text_parts(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    await ask(client, messages=[{"role": "user", "content": parts}])
    assert "one\ntwo" in prompts(engine)[0]


async def test_developer_is_another_word_for_system(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    for role in ("system", "developer"):
        await ask(client, messages=[{"role": role, "content": "Rule"}, *HELLO["messages"]])
    first, second = prompts(engine)
    assert first == second
    assert "Rule" in first


async def test_the_last_message_can_be_continued(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    messages = [*HELLO["messages"], {"role": "assistant", "content": "Once upon"}]
    await ask(client, messages=messages, continue_final_message=True)
    assert prompts(engine)[0].endswith("Once upon")


async def test_the_generation_prompt_can_be_left_out(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await ask(client)
    await ask(client, add_generation_prompt=False)
    with_prompt, without = prompts(engine)
    assert with_prompt.startswith(without)
    assert len(with_prompt) > len(without)


async def test_the_operator_s_template_and_the_client_s_variables_are_used(
    make_client: MakeClient, engine: FakeEngine
) -> None:
    template = "{{ mood }}|{{ reasoning_effort }}|{{ messages[0].content }}"
    client = await make_client(chat_template=template)
    await ask(client, chat_template_kwargs={"mood": "calm"}, reasoning_effort="low")
    assert prompts(engine) == ["calm|low|Hello"]


async def test_a_template_s_own_refusal_is_a_400(make_client: MakeClient) -> None:
    client = await make_client(chat_template="{{ raise_exception('no such role') }}")
    response = await client.post("/v1/chat/completions", json=HELLO)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "messages"
    assert "no such role" in error["message"]


async def test_tool_calls_of_earlier_turns_reach_the_template_as_objects(
    make_client: MakeClient, engine: FakeEngine
) -> None:
    template = "{% for m in messages %}{{ m.tool_calls[0].function.arguments.x }}{% endfor %}"
    client = await make_client(chat_template=template)
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 5}'}}
    await ask(client, messages=[{"role": "assistant", "tool_calls": [call]}])
    assert prompts(engine) == ["5"]


async def test_each_served_name_works_and_is_reported_back(make_client: MakeClient) -> None:
    client = await make_client(names=("a", "org/b"))
    for name in ("a", "org/b"):
        assert (await ask(client, model=name))["model"] == name
