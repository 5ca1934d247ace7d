"""`POST /v1/embeddings` on an engine without a model."""

from __future__ import annotations

import asyncio
import base64
import struct
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from msgspec.structs import replace
from openai.types import CreateEmbeddingResponse

from windlass.errors import QueueFullError
from windlass_server.console import ready_text
from windlass_server.models.settings import ModelSettings
from windlass_server.settings import ServerSettings

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient, Serve
    from tests.server.pooling.conftest import Pooling

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pooling")]

MODEL = "fake-model"
PATH = "/v1/embeddings"


async def post(client: httpx.AsyncClient, **fields: Any) -> Any:
    response = await client.post(PATH, json={"model": MODEL, **fields})
    assert response.status_code == 200, response.text
    return response.json()


async def refuse(client: httpx.AsyncClient, status: int = 400, **fields: Any) -> Any:
    response = await client.post(PATH, json={"model": MODEL, **fields})
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def test_an_answer_in_openais_shape(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = await post(client, input="rope", user="me")
    ids = engine.tokenizer.encode("rope")
    CreateEmbeddingResponse.model_validate(body, strict=True)
    vector = [float(len(ids)), float(sum(ids)), 1.0, 0.5]
    assert body == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": vector}],
        "model": MODEL,
        "usage": {"prompt_tokens": len(ids), "total_tokens": len(ids)},
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("rope", ["rope"]),
        (["rope", "hauls", "rope"], ["rope", "hauls", "rope"]),
        ([5, 6, 7], [[5, 6, 7]]),
        ([[5], [6, 7]], [[5], [6, 7]]),
    ],
)
async def test_inputs_in_every_form(
    client: httpx.AsyncClient, engine: FakeEngine, given: Any, expected: list[Any]
) -> None:
    body = await post(client, input=given)
    ids = [e if isinstance(e, list) else engine.tokenizer.encode(e) for e in expected]
    assert [d["index"] for d in body["data"]] == list(range(len(expected)))
    assert [d["embedding"][:2] for d in body["data"]] == [[len(i), sum(i)] for i in ids]
    assert body["usage"]["total_tokens"] == sum(map(len, ids))


async def test_base64_is_float32_little_endian(client: httpx.AsyncClient) -> None:
    body = await post(client, input=[[5, 6]], encoding_format="base64")
    decoded = base64.b64decode(body["data"][0]["embedding"], validate=True)
    assert struct.unpack("<4f", decoded) == (2.0, 11.0, 1.0, 0.5)
    assert (await post(client, input=[[5, 6]], encoding_format="float"))["data"][0][
        "embedding"
    ] == [2.0, 11.0, 1.0, 0.5]


async def test_what_a_request_asks_reaches_the_engine(
    make_client: MakeClient, pooling: Pooling
) -> None:
    client = await make_client(priority_scheduling=True)
    body = await post(client, input=[[5, 6]], dimensions=2, normalize=True, priority=-3)
    assert len(body["data"][0]["embedding"]) == 2
    options = pooling.jobs[-1].requests[0].pooling
    assert options is not None
    assert (options.dimensions, options.normalize, pooling.priorities) == (2, True, [-3])
    await post(client, input="rope", prompt_name="query")
    await post(client, input="ask: rope")
    asked, plain = (job.requests[0].prompt_token_ids for job in pooling.jobs[-2:])
    assert asked == plain
    await post(client, input=[list(range(5, 30))], truncate_prompt_tokens=3)
    assert pooling.jobs[-1].requests[0].prompt_token_ids == [5, 6, 7]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "input", "missing_required_parameter"),
        ({"input": None}, "input", "invalid_type"),
        ({"input": 5}, "input", "invalid_type"),
        ({"input": {}}, "input", "invalid_type"),
        ({"input": ["a", 5]}, "input[1]", "invalid_type"),
        ({"input": [5, "a"]}, "input[1]", "invalid_type"),
        ({"input": [[5], []]}, "input[1]", "invalid_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": ["a", ""]}, "input", "invalid_value"),
        ({"input": [-1]}, "input", "invalid_value"),
        ({"input": [10**6]}, "input", "invalid_value"),
        ({"input": [10**30]}, "input", "invalid_value"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "invalid_value"),
        ({"input": "a", "dimensions": 0}, "dimensions", "invalid_value"),
        ({"input": "a", "dimensions": 5}, "dimensions", "invalid_value"),
        ({"input": "a", "dimensions": "4"}, "dimensions", "invalid_type"),
        ({"input": "a", "prompt_name": "passage"}, "prompt_name", "invalid_value"),
        ({"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "invalid_value"),
        ({"input": "a", "truncate_prompt_tokens": 33}, "truncate_prompt_tokens", "invalid_value"),
        ({"input": "a", "priority": 1}, "priority", "unsupported_parameter"),
        ({"input": "a", "messages": [{}]}, "messages", "unsupported_parameter"),
        (
            {"input": "a", "add_special_tokens": False},
            "add_special_tokens",
            "unsupported_parameter",
        ),
    ],
)
async def test_what_is_wrong_is_named(
    client: httpx.AsyncClient, pooling: Pooling, fields: dict[str, Any], param: str, code: str
) -> None:
    error = await refuse(client, **fields)
    assert (error["param"], error["code"]) == (param, code)
    assert not pooling.jobs


async def test_limits_of_inputs_and_of_their_tokens(client: httpx.AsyncClient) -> None:
    assert len((await post(client, input=[[5]] * 8))["data"]) == 8
    assert "from 1 to 8 inputs" in (await refuse(client, input=[[5]] * 9))["message"]
    assert (await post(client, input=[[5] * 25] * 4))["usage"]["total_tokens"] == 100
    assert "101 tokens" in (await refuse(client, input=[[5] * 25] * 3 + [[5] * 26]))["message"]
    await post(client, input=[[5] * 32])
    error = await refuse(client, input=[[5], [5] * 33])
    assert (error["param"], error["code"]) == ("input", "context_length_exceeded")
    assert "input 1 has 33 tokens" in error["message"]


async def test_unknown_parameters_are_reported_or_refused(make_client: MakeClient) -> None:
    client = await make_client()
    response = await client.post(PATH, json={"model": MODEL, "input": "a", "input_type": "query"})
    assert response.headers["x-windlass-warning"] == "unknown parameters were ignored: input_type"
    strict = await make_client(strict_params=True)
    error = await refuse(strict, input="a", input_type="query")
    assert (error["param"], error["code"]) == ("input_type", "unknown_parameter")


async def test_a_model_of_the_other_kind_says_so(
    client: httpx.AsyncClient, engine: FakeEngine, pooling: Pooling
) -> None:
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": chat,
        "/v1/completions": {"model": MODEL, "prompt": "Hello"},
        "/v1/responses": {"model": MODEL, "input": "Hello"},
    }
    for path, body in bodies.items():
        response = await client.post(path, json=body)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "unsupported_endpoint"
    response = await client.post("/v1/messages", json={**chat, "max_tokens": 5})
    assert response.status_code == 400
    assert "does not generate" in response.json()["error"]["message"]

    engine.info = replace(engine.info, pooling=None)
    error = await refuse(client, input="a")
    assert (error["code"], error["param"]) == ("unsupported_endpoint", "model")
    assert error["message"] == "This model generates text; it does not embed or score."
    assert (await refuse(client, 404, model="other", input="a"))["code"] == "model_not_found"
    assert not pooling.jobs


async def test_the_model_is_listed_with_its_longest_input(client: httpx.AsyncClient) -> None:
    [model] = (await client.get("/v1/models")).json()["data"]
    assert (model["id"], model["max_model_len"]) == (MODEL, 32)


async def test_what_the_engine_does_not_manage(
    client: httpx.AsyncClient, engine: FakeEngine, pooling: Pooling
) -> None:
    pooling.fail()
    assert (await refuse(client, 500, input="a"))["code"] == "request_failed"
    pooling.die()
    assert (await refuse(client, 500, input="a"))["code"] == "engine_failed"
    engine.refusal = QueueFullError("The queue is full.", retry_after=2.5)
    response = await client.post(PATH, json={"model": MODEL, "input": "a"})
    assert (response.status_code, response.headers["retry-after"]) == (503, "3")
    engine.die()
    assert (await refuse(client, 503, input="a"))["code"] == "engine_restarting"


async def test_metrics_count_calls_and_tokens(client: httpx.AsyncClient, pooling: Pooling) -> None:
    await post(client, input=[[5, 6], [7]])
    pooling.fail()
    await refuse(client, 500, input="a")
    text = (await client.get("/metrics")).text
    labels = '{engine="0",model_name="fake-model"'
    assert f"vllm:prompt_tokens_total{labels}}} 3.0" in text
    for reason in ("stop", "error"):
        found = f'finished_reason="{reason}",model_name="fake-model"}} 1.0'
        assert found in text
    assert f"vllm:request_queue_time_seconds_sum{labels}}} 0.25" in text


async def test_a_client_that_leaves_aborts_its_request(
    serve: Serve, engine: FakeEngine, pooling: Pooling
) -> None:
    state, client = await serve()
    engine.gate.clear()
    asking = asyncio.create_task(client.post(PATH, json={"model": MODEL, "input": "a"}))
    async with asyncio.timeout(10):
        while not pooling.jobs:
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        while not pooling.aborted:
            await asyncio.sleep(0.01)
    pooling.task.cancel()
    assert state.metrics.finished["abort"]._value.get() == 1


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("embed", ["/v1/embeddings -H", '"input": "Hello!"', "client.embeddings.create(model="]),
        ("score", ["/v1/rerank -H", '"documents": ["Hello!", "No."]']),
    ],
)
async def test_the_ready_text_shows_what_the_model_is_for(
    engine: FakeEngine, task: Any, words: list[str]
) -> None:
    assert engine.info.pooling is not None
    info = replace(engine.info, pooling=replace(engine.info.pooling, task=task))
    settings = ServerSettings(models=(ModelSettings(names=(MODEL,)),))
    text = ready_text(settings, info, "http://127.0.0.1:8000")
    assert all(word in text for word in words)
    assert "chat" not in text
