"""Structured output through the engine process and the HTTP server, with random weights."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jsonschema
import psutil
import pytest

from windlass import AsyncEngine, EngineConfig, SamplingParams, StructuredOutputs, demo_model
from windlass.config import ModelConfig, SchedulerConfig
from windlass.errors import RequestError
from windlass.request import RequestOutput
from windlass_server.app import create_app
from windlass_server.models.settings import ModelSettings
from windlass_server.settings import ServerSettings
from windlass_server.state import ServerState

pytestmark = pytest.mark.anyio

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "role": {"enum": ["admin", "user"]},
    },
    "required": ["name", "age", "role"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def engine() -> AsyncIterator[AsyncEngine]:
    config = EngineConfig(
        model=ModelConfig(model=str(demo_model.path()), load_format="dummy"),
        scheduler=SchedulerConfig(max_num_seqs=8),
    )
    made = await AsyncEngine.start(config)
    yield made
    await made.shutdown()


@pytest.fixture(scope="module")
async def client(engine: AsyncEngine) -> AsyncIterator[httpx.AsyncClient]:
    state = ServerState(ServerSettings(models=(ModelSettings(names=("demo",)),)))
    state.serve(engine)
    transport = httpx.ASGITransport(create_app(state))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as made:
        yield made


def params(**sampling: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 100, "temperature": 1.0, **sampling})


async def answer(engine: AsyncEngine, sampling: SamplingParams) -> RequestOutput:
    *_, last = [output async for output in engine.generate("Once", sampling)]
    return last


async def test_answers_satisfy_their_schema_beside_free_ones(engine: AsyncEngine) -> None:
    schema = StructuredOutputs(json=PERSON)
    sampling = [params(structured_outputs=schema, seed=i, n=1 + i % 3) for i in range(8)]
    free = [params(max_tokens=30, ignore_eos=True) for _ in range(4)]
    results = await asyncio.gather(*(answer(engine, one) for one in [*sampling, *free]))
    texts = [a.text for r in results[:8] for a in r.outputs if a.finish_reason == "stop"]
    assert len(texts) > 8
    for text in texts:
        jsonschema.validate(json.loads(text), PERSON)
    assert all(len(result.outputs[0].token_ids) == 30 for result in results[8:])


async def test_a_constraint_is_refused_before_anything_is_queued(engine: AsyncEngine) -> None:
    with pytest.raises(RequestError) as caught:
        await engine.submit("Once", params(structured_outputs=StructuredOutputs(json={"not": {}})))
    assert caught.value.code == "unsupported_json_schema"
    assert engine.num_unfinished == 0


async def test_killed_workers_cost_others_nothing(engine: AsyncEngine) -> None:
    running = asyncio.create_task(answer(engine, params(max_tokens=200, ignore_eos=True)))
    await answer(engine, params(structured_outputs=StructuredOutputs(regex="[0-9]")))
    for i in range(3):
        for child in psutil.Process().children():
            if "worker_process" in " ".join(child.cmdline()):
                os.kill(child.pid, signal.SIGSEGV)
        regex = StructuredOutputs(regex=f"[0-9]{{{i + 2}}}")
        # The request that finds its worker dead may be refused; the next one is served.
        with contextlib.suppress(RequestError):
            await engine.submit("Once", params(structured_outputs=regex))
        result = await answer(engine, params(structured_outputs=regex))
        assert len(result.outputs[0].text) == i + 2
    assert len((await running).outputs[0].token_ids) == 200


CASES: list[dict[str, Any]] = [
    {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}},
    {"guided_json": json.dumps(PERSON)},
    {"structured_outputs": {"json": PERSON}},
]


@pytest.mark.parametrize("body", CASES, ids=lambda body: next(iter(body)))
async def test_every_way_of_asking_is_kept_to(
    client: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    asked = {"model": "demo", "prompt": "Once", "max_tokens": 100, "seed": 3, **body}
    response = await client.post("/v1/completions", json=asked)
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    assert choice["finish_reason"] in ("stop", "length")
    if choice["finish_reason"] == "stop":
        jsonschema.validate(json.loads(choice["text"]), PERSON)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_names_the_field_that_was_sent(
    client: httpx.AsyncClient, stream: bool
) -> None:
    wrong = {"type": "json_schema", "json_schema": {"name": "p", "schema": {"not": {}}}}
    for body, param in (
        ({"response_format": wrong}, "response_format"),
        ({"guided_regex": "(?=a)"}, "guided_regex"),
        ({"structured_outputs": {"grammar": "start: ("}}, "structured_outputs"),
    ):
        asked = {"model": "demo", "prompt": "Once", "stream": stream, **body}
        response = await client.post("/v1/completions", json=asked)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == param


async def test_words_and_tokens_are_kept_to_over_http(client: httpx.AsyncClient) -> None:
    asked = {"model": "demo", "prompt": "Once", "max_tokens": 20, "ignore_eos": True}
    bad = await client.post("/v1/completions", json={**asked, "bad_words": ["e"]})
    assert "e" not in bad.json()["choices"][0]["text"]
    few = await client.post("/v1/completions", json={**asked, "allowed_token_ids": [400]})
    assert few.json()["usage"]["completion_tokens"] == 20
    cut = await client.post("/v1/completions", json={**asked, "truncate_prompt_tokens": 1})
    assert cut.json()["usage"]["prompt_tokens"] == 1


@pytest.mark.parametrize("route", ["$ref", "$schema", "$id", "$dynamicRef", "grammar"])
async def test_an_address_in_a_constraint_is_not_visited(
    client: httpx.AsyncClient, route: str
) -> None:
    visits = 0

    async def visited(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        writer.close()

    server = await asyncio.start_server(visited, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/schema.json"
        schema = {"type": "object", "properties": {"a": {route: url}}, route: url}
        grammar = {"grammar": f'%import "{url}"\nstart: "a"'}
        constraint = grammar if route == "grammar" else {"json": schema}
        body = {"model": "demo", "prompt": "x", "max_tokens": 2, "structured_outputs": constraint}
        response = await client.post("/v1/completions", json=body)
        assert response.status_code in (200, 400), response.text
        assert visits == 0
