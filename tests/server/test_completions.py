"""Whole completions: prompts in every form, echo and the log-probabilities that lm-eval reads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from openai.types import Completion

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine

pytestmark = pytest.mark.anyio

PROMPT: dict[str, Any] = {"model": "fake-model", "prompt": "Hello there"}


async def complete(client: httpx.AsyncClient, **change: Any) -> dict[str, Any]:
    response = await client.post("/v1/completions", json={**PROMPT, **change})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_the_answer_fits_openai_s_schema_strictly(client: httpx.AsyncClient) -> None:
    body = await complete(client, max_tokens=200, logprobs=2)
    parsed = Completion.model_validate(body, strict=True)
    assert parsed.object == "text_completion"
    assert parsed.choices[0].finish_reason == "stop"
    assert set(body) == {"id", "object", "created", "model", "choices", "usage"}
    assert set(body["choices"][0]) == {"index", "text", "logprobs", "finish_reason"}


async def test_sixteen_tokens_are_the_default(client: httpx.AsyncClient) -> None:
    body = await complete(client)
    assert body["usage"]["completion_tokens"] == 16
    assert body["choices"][0]["finish_reason"] == "length"


async def test_a_prompt_may_come_in_four_forms(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    ids = engine.tokenizer.encode("Hello there")
    for prompt, count in (
        ("Hello there", 1),
        (["Hello there", "Hello there"], 2),
        (ids, 1),
        ([ids, ids, ids], 3),
    ):
        engine.submitted.clear()
        body = await complete(client, prompt=prompt)
        assert [choice["index"] for choice in body["choices"]] == list(range(count))
        assert [p.prompt_token_ids for p in engine.submitted] == [ids] * count
        assert body["usage"]["prompt_tokens"] == count * len(ids)


async def test_choices_of_several_prompts_stand_in_order(client: httpx.AsyncClient) -> None:
    body = await complete(client, prompt=["first", "second"], n=2, echo=True, max_tokens=1)
    texts = [choice["text"] for choice in body["choices"]]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert [text.startswith("first") for text in texts] == [True, True, False, False]
    assert [text.startswith("second") for text in texts] == [False, False, True, True]


async def test_echo_puts_the_prompt_in_front(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = await complete(client, echo=True, max_tokens=200)
    assert body["choices"][0]["text"] == "Hello there" + engine.answer
    ids = engine.tokenizer.encode("Hello there", add_special_tokens=False)
    body = await complete(client, prompt=ids, echo=True, max_tokens=200)
    assert body["choices"][0]["text"] == "Hello there" + engine.answer


@pytest.mark.parametrize("max_tokens", [0, 1])
async def test_echo_with_logprobs_scores_the_prompt(
    client: httpx.AsyncClient, engine: FakeEngine, max_tokens: int
) -> None:
    ids = engine.tokenizer.encode("Hello there")
    body = await complete(client, prompt=ids, echo=True, logprobs=1, max_tokens=max_tokens)
    choice, usage = body["choices"][0], body["usage"]
    logprobs = choice["logprobs"]
    assert {len(values) for values in logprobs.values()} == {len(ids) + max_tokens}
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["token_logprobs"][1:] == [-0.5] * (len(ids) + max_tokens - 1)
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert choice["finish_reason"] == "length"
    assert usage["completion_tokens"] == max_tokens
    assert usage["prompt_tokens"] == len(ids)


async def test_text_offsets_point_at_the_tokens(client: httpx.AsyncClient) -> None:
    choice = (await complete(client, logprobs=0, max_tokens=8))["choices"][0]
    logprobs = choice["logprobs"]
    for offset, token in zip(logprobs["text_offset"], logprobs["tokens"], strict=True):
        if "\ufffd" not in "".join(logprobs["tokens"]):
            assert choice["text"][offset:].startswith(token)
    assert [len(top) for top in logprobs["top_logprobs"]] == [1] * 8


async def test_prompt_logprobs_come_only_when_asked_for(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    body = await complete(client, prompt_logprobs=2, n=2)
    for choice in body["choices"]:
        assert len(choice["prompt_logprobs"]) == len(engine.submitted[0].prompt_token_ids)
        assert choice["prompt_logprobs"][0] is None


async def test_special_tokens_can_be_left_out(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await complete(client, add_special_tokens=False)
    expected = engine.tokenizer.encode("Hello there", add_special_tokens=False)
    assert engine.submitted[0].prompt_token_ids == expected


async def test_one_prompt_that_fails_aborts_the_others(
    client: httpx.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = engine.submit

    async def submit_and_kill(*args: Any, **kwargs: Any) -> Any:
        stream = await submit(*args, **kwargs)
        if len(engine.submitted) == 3:
            engine.die()
        return stream

    monkeypatch.setattr(engine, "submit", submit_and_kill)
    response = await client.post("/v1/completions", json={**PROMPT, "prompt": ["a", "b", "c"]})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "engine_failed"
    assert not engine.running


async def test_tokens_come_when_asked_for(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    options = {"return_token_ids": True, "return_tokens_as_token_ids": True, "logprobs": 1}
    body = await complete(client, **options)
    (choice,) = body["choices"]
    assert choice["prompt_token_ids"] == engine.submitted[0].prompt_token_ids
    assert len(choice["token_ids"]) == body["usage"]["completion_tokens"]
    texts = [f"token_id:{token}" for token in choice["token_ids"]]
    assert choice["logprobs"]["tokens"] == texts
    assert all(
        text in top for text, top in zip(texts, choice["logprobs"]["top_logprobs"], strict=True)
    )


async def test_streamed_tokens_are_those_of_the_whole_answer(client: httpx.AsyncClient) -> None:
    whole = (await complete(client, return_token_ids=True))["choices"][0]
    body = {**PROMPT, "return_token_ids": True, "stream": True}
    response = await client.post("/v1/completions", json=body)
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert data.pop() == "[DONE]"
    choices = [json.loads(chunk)["choices"][0] for chunk in data]
    assert choices[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert [t for choice in choices for t in choice["token_ids"]] == whole["token_ids"]
