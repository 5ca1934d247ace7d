"""Several models behind one server, and the routes that load, unload, put to sleep and wake."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.requests import Request

from windlass.errors import ModelError
from windlass_server.access.control import AccessControl
from windlass_server.access.settings import AccessSettings, KeyLimits
from windlass_server.disconnect import ClientDisconnected
from windlass_server.models.settings import ModelSettings, SwapSettings
from windlass_server.routes.request import engine_for
from windlass_server.settings import ServerSettings
from windlass_server.state import ServerState

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"


def asking(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], **more}


@pytest.fixture
async def state(engine: FakeEngine) -> AsyncIterator[ServerState]:
    """A server that has two models and room for one; "b" answers with its name."""
    models = (ModelSettings(names=("a", "first")), ModelSettings(names=("b",), preload=False))
    state = ServerState(ServerSettings(models=models, swap=SwapSettings(max_loaded=1)))

    async def start_a(_progress: object) -> FakeEngine:
        return engine

    async def start_b(_progress: object) -> FakeEngine:
        other = type(engine)(engine.tokenizer)
        other.answer = "I am b."
        return other

    state.models.starters = dict(zip(state.models.models, (start_a, start_b), strict=True))
    await state.models.load(state.models.default)
    state.serve()
    yield state
    await state.models.close()


@pytest.fixture
async def client(make_client: MakeClient, state: ServerState) -> httpx.AsyncClient:
    client = await make_client(state=state)
    # Without keys, routes of operators answer only under a name of this host itself.
    client.base_url = httpx.URL("http://localhost")
    return client


async def text_of(client: httpx.AsyncClient, model: str) -> str:
    response = await client.post(CHAT, json=asking(model))
    assert response.status_code == 200, response.text
    assert response.json()["model"] == model
    return str(response.json()["choices"][0]["message"]["content"])


async def statuses(client: httpx.AsyncClient) -> dict[str, str]:
    listed = (await client.get("/v1/models")).json()["data"]
    return {model["id"]: model["status"]["value"] for model in listed}


@asynccontextmanager
async def paused_stream(
    client: httpx.AsyncClient, engine: FakeEngine, model: str
) -> AsyncIterator[asyncio.Task[httpx.Response]]:
    """A stream that has begun and waits for the engine's gate; it is awaited at the end."""
    engine.gate.clear()
    task = asyncio.create_task(client.post(CHAT, json=asking(model, stream=True)))
    while not engine.running:
        await asyncio.sleep(0.001)
    yield task
    await task


async def test_a_request_loads_its_model(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    assert await statuses(client) == {"a": "loaded", "first": "loaded", "b": "unloaded"}
    assert await text_of(client, "b") == "I am b."
    assert engine.was_shut_down
    assert await statuses(client) == {"a": "unloaded", "first": "unloaded", "b": "loaded"}
    assert await text_of(client, "first") == engine.answer


async def test_a_stream_finishes_before_its_model_goes(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    async with paused_stream(client, engine, "a") as stream:
        other = asyncio.create_task(text_of(client, "b"))
        while (await statuses(client))["a"] != "leaving":
            await asyncio.sleep(0.001)
        engine.gate.set()
    assert stream.result().text.endswith("data: [DONE]\n\n")
    assert "error" not in stream.result().text
    assert await other == "I am b."


async def test_a_background_response_keeps_its_model(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.gate.clear()
    body = {"model": "a", "input": "Hello", "background": True}
    begun = (await client.post("/v1/responses", json=body)).json()
    other = asyncio.create_task(text_of(client, "b"))
    while (await statuses(client))["a"] != "leaving":
        await asyncio.sleep(0.001)
    engine.gate.set()
    assert await other == "I am b."
    ended = (await client.get(f"/v1/responses/{begun['id']}")).json()
    assert ended["status"] == "completed"


async def test_an_unknown_name_and_a_wrong_body_load_nothing(client: httpx.AsyncClient) -> None:
    unknown = await client.post(CHAT, json=asking("c"))
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    wrong = await client.post(CHAT, json=asking("b", temperature="hot"))
    assert wrong.status_code == 400
    assert (await statuses(client))["b"] == "unloaded"


async def test_calls_that_wait_for_a_model_are_held_to_the_limits_of_their_key(
    make_client: MakeClient, state: ServerState, engine: FakeEngine
) -> None:
    limits = KeyLimits(max_concurrent_requests=2)
    state.access = AccessControl(
        AccessSettings(api_keys=("one", "two"), limits=limits), state.metrics
    )
    client = await make_client(state=state)
    client.headers["authorization"] = "Bearer one"
    async with paused_stream(client, engine, "a"):
        waiting = asyncio.create_task(client.post(CHAT, json=asking("b")))
        while (await statuses(client))["a"] != "leaving":
            await asyncio.sleep(0.001)
        refused = await client.post(CHAT, json=asking("b"))
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        for path in (CHAT, "/tokenize"):
            body = asking("b") if path == CHAT else {"model": "b", "prompt": "x"}
            headers = {"authorization": "Bearer two", "x-request-timeout": "0.01"}
            late = await client.post(path, json=body, headers=headers)
            assert late.json()["error"]["code"] == "deadline_exceeded"
        engine.gate.set()
    assert (await waiting).status_code == 200
    assert (await client.post(CHAT, json=asking("b"))).status_code == 200


async def test_sleep_and_wake(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    assert (await client.get("/is_sleeping")).json() == {"is_sleeping": False}
    assert (await client.post("/sleep", params={"level": 2})).json() == {"success": True}
    assert engine.was_shut_down
    assert (await client.get("/is_sleeping")).json() == {"is_sleeping": True}
    assert (await client.get("/health")).status_code == 200
    for response in (
        await client.get("/ready"),
        await client.post(CHAT, json=asking("a")),
        await client.get("/windlass/view"),
    ):
        assert response.status_code == 503
        assert response.headers["retry-after"]
    refused = (await client.post(CHAT, json=asking("a"))).json()["error"]
    assert refused["code"] == "model_sleeping"
    assert "/wake_up" in refused["message"]
    assert (await client.post("/wake_up")).status_code == 200
    assert await statuses(client) == {"a": "loaded", "first": "loaded", "b": "unloaded"}
    assert await text_of(client, "a") == engine.answer


async def test_one_of_several_sleeps(client: httpx.AsyncClient) -> None:
    await client.post("/sleep", params={"model": "b"})
    assert await statuses(client) == {"a": "loaded", "first": "loaded", "b": "sleeping"}
    assert (await client.get("/is_sleeping", params={"model": "b"})).json()["is_sleeping"]
    assert not (await client.get("/is_sleeping")).json()["is_sleeping"]
    assert (await client.get("/ready")).status_code == 200
    assert (await client.post(CHAT, json=asking("b"))).json()["error"]["code"] == "model_sleeping"


async def test_sleep_with_abort_ends_what_runs(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    async with paused_stream(client, engine, "a") as stream:
        response = await client.post("/sleep", params={"mode": "abort"})
        assert response.status_code == 200
        assert engine.was_shut_down
        engine.die(None)
    event = stream.result().text.splitlines()[0]
    assert json.loads(event.removeprefix("data: "))["error"]["code"] == "model_sleeping"


async def test_a_client_that_leaves_waits_for_no_model(
    client: httpx.AsyncClient, engine: FakeEngine, state: ServerState
) -> None:
    async def leave() -> dict[str, str]:
        await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async with paused_stream(client, engine, "a"):
        scope = {"type": "http", "app": client._transport.app, "state": {}}  # type: ignore[attr-defined]
        with pytest.raises(ClientDisconnected):
            await engine_for(Request(scope, leave), "b")
        engine.gate.set()
    assert await text_of(client, "a") == engine.answer
    assert not engine.was_shut_down


@pytest.mark.parametrize(
    ("method", "path", "param"),
    [
        ("POST", "/sleep?level=3", "level"),
        ("POST", "/sleep?mode=keep", "mode"),
        ("POST", "/wake_up?tags=weights", "tags"),
        ("POST", "/sleep?model=c", "model"),
        ("GET", "/is_sleeping?model=c", "model"),
    ],
)
async def test_wrong_parameters_are_named(
    client: httpx.AsyncClient, method: str, path: str, param: str
) -> None:
    response = await client.request(method, path)
    assert response.status_code in (400, 404)
    assert response.json()["error"]["param"] == param


async def test_load_and_unload(client: httpx.AsyncClient, state: ServerState) -> None:
    assert (await client.post("/models/load", json={"model": "b"})).json() == {"success": True}
    assert await statuses(client) == {"a": "unloaded", "first": "unloaded", "b": "loaded"}
    assert (await client.post("/models/unload", json={"model": "b"})).status_code == 200
    assert (await statuses(client))["b"] == "unloaded"

    async def broken(_progress: object) -> FakeEngine:
        raise ModelError("the folder has no config.json")

    state.models.starters[state.models.find("b")] = broken
    failed = await client.post("/models/load", json={"model": "b"})
    assert failed.status_code == 500
    assert "no config.json" in failed.json()["error"]["message"]
    asked = await client.post(CHAT, json=asking("b"))
    assert (asked.status_code, asked.json()["error"]["code"]) == (503, "model_load_failed")
    assert "config.json" not in asked.text


async def test_only_admins_change_what_is_loaded(make_client: MakeClient) -> None:
    client = await make_client(api_keys=("user",), admin_api_keys=("admin",))
    for path in ("/sleep", "/wake_up", "/models/load", "/models/unload"):
        refused = await client.post(path, headers={"authorization": "Bearer user"})
        assert refused.status_code == 403, path
    for key, status in (("user", 403), ("admin", 200)):
        headers = {"authorization": f"Bearer {key}"}
        assert (await client.get("/is_sleeping", headers=headers)).status_code == status
        assert (await client.post("/sleep", headers=headers)).status_code == status


async def test_metrics_tell_the_models_apart(client: httpx.AsyncClient) -> None:
    await text_of(client, "a")
    await text_of(client, "b")
    text = (await client.get("/metrics")).text
    for name in ("a", "b"):
        finished = f'finished_reason="stop",model_name="{name}"'
        assert f'vllm:request_success_total{{engine="0",{finished}}} 1.0' in text
    assert text.count("# TYPE vllm:request_success_total") == 1
    assert 'vllm:num_requests_running{engine="0",model_name="b"}' in text
    assert 'vllm:num_requests_running{engine="0",model_name="a"}' not in text
