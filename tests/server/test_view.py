"""`GET /windlass/view`: what it tells, to whom, and how often it asks the engine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from windlass.request import SamplingParams
from windlass_server import engine_view

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient

pytestmark = pytest.mark.anyio

HELLO: dict[str, Any] = {"model": "fake-model", "prompt": "Hello", "max_tokens": 8}


@pytest.fixture
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_view, "MIN_INTERVAL", 0.0)


async def test_an_idle_engine_is_told_as_it_is(client: httpx.AsyncClient) -> None:
    view = (await client.get("/windlass/view")).json()
    assert view["object"] == "engine.view"
    assert view["model"] == "fake-model"
    assert view["device"] == "fake (none, float32)"
    assert view["first_token"] == {"sum": 0.0, "count": 0.0}
    assert view["engine"]["sequences"] == []
    assert view["engine"]["stats"]["num_blocks"] == 64


@pytest.mark.usefixtures("always_fresh")
async def test_running_requests_and_latencies_are_told_without_text(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await client.post("/v1/completions", json={**HELLO, "prompt": "a secret word"})
    engine.pause_after = 2
    running = asyncio.create_task(client.post("/v1/completions", json=HELLO))
    while engine.gate.is_set():
        await asyncio.sleep(0.001)
    response = await client.get("/windlass/view")
    [sequence] = response.json()["engine"]["sequences"]
    assert sequence["state"] == "running"
    assert sequence["block_ids"] == [1]
    assert response.json()["first_token"]["count"] == 2
    assert response.json()["inter_token"]["count"] > 2
    assert "secret" not in response.text
    engine.pause_after = None
    engine.gate.set()
    await running


@pytest.mark.usefixtures("always_fresh")
async def test_ids_are_shortened(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.gate.clear()
    stream = await engine.submit("Hello", SamplingParams(max_tokens=1), "req-0123456789abcdef")
    [sequence] = (await client.get("/windlass/view")).json()["engine"]["sequences"]
    assert sequence["request_id"] == "89abcdef"
    await stream.aclose()


async def test_many_who_look_cost_one_look(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    answers = [await client.get("/windlass/view") for _ in range(5)]
    assert engine.looks == 1
    assert len({answer.content for answer in answers}) == 1


@pytest.mark.usefixtures("always_fresh")
async def test_a_later_look_is_a_new_one(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    first, second = [(await client.get("/windlass/view")).json() for _ in range(2)]
    assert engine.looks == 2
    assert second["uptime"] > first["uptime"]


async def test_a_dead_engine_is_a_503_that_says_when_to_come_back(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.die()
    response = await client.get("/windlass/view")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "engine_restarting"
    assert response.headers["retry-after"] == "2"


async def test_a_busy_engine_is_a_503(
    client: httpx.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_view, "MAX_WAIT", 0.01)
    monkeypatch.setattr(engine, "view", asyncio.Event().wait)
    response = await client.get("/windlass/view")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "engine_busy"


async def test_a_server_that_loads_is_a_503(make_client: MakeClient, make_state: Any) -> None:
    client = await make_client(state=make_state(loaded=False))
    response = await client.get("/windlass/view")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "model_loading"
