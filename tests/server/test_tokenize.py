"""Text to tokens and back, and what is told of the tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient

    from windlass.text import Tokenizer

pytestmark = pytest.mark.anyio

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}


async def post(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    return result


async def test_a_prompt_goes_to_tokens_and_back(
    client: httpx.AsyncClient, tokenizer: Tokenizer
) -> None:
    text = "Haul the 猫 rope."
    body = await post(client, "/tokenize", {"prompt": text, "add_special_tokens": False})
    assert body["tokens"] == tokenizer.encode(text, add_special_tokens=False)
    assert body["count"] == len(body["tokens"])
    assert body["max_model_len"] == 256
    assert "token_strs" not in body
    back = await post(client, "/detokenize", {"tokens": body["tokens"]})
    assert back == {"prompt": text}


async def test_token_texts_come_when_asked_for(client: httpx.AsyncClient) -> None:
    body = await post(client, "/tokenize", {"prompt": "Haul it", "return_token_strs": True})
    assert len(body["token_strs"]) == body["count"]


async def test_messages_are_counted_as_a_chat_counts_them(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    body = await post(client, "/tokenize", HELLO)
    await post(client, "/v1/chat/completions", {"model": "fake-model", **HELLO})
    assert body["tokens"] == engine.submitted[0].prompt_token_ids


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", **HELLO}, "prompt"),
        ("/tokenize", {**HELLO, "chat_template": "x"}, "chat_template"),
        ("/tokenize", {"prompt": 3}, "prompt"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [10**6]}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
    ],
)
async def test_a_fault_names_its_field(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], param: str
) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_an_unknown_parameter_is_named(client: httpx.AsyncClient) -> None:
    response = await client.post("/tokenize", json={"prompt": "x", "colour": "red"})
    assert "colour" in response.headers["x-windlass-warning"]


async def test_another_model_is_not_found(client: httpx.AsyncClient) -> None:
    response = await client.post("/tokenize", json={"prompt": "x", "model": "other"})
    assert response.status_code == 404


async def test_the_tokenizer_is_described(make_client: MakeClient, tokenizer: Tokenizer) -> None:
    client = await make_client(chat_template="{{ messages }}")
    body = (await client.get("/tokenizer_info")).json()
    assert body["vocab_size"] == tokenizer.vocab_size
    assert body["eos_token_id"] == tokenizer.eos_token_id
    assert body["chat_template"] == "{{ messages }}"
    assert not any("/" in str(value) for value in body.values())
