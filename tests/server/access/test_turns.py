"""Turns between keys over HTTP: who waits, who goes next, and what waiting leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from limited_calls import CHAT, GENERATING, error_of, key, wait_for

from windlass_server.processes.settings import ProcessSettings

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient, Serve

    from windlass_server.access.fair_queue import FairQueue
    from windlass_server.state import ServerState

pytestmark = pytest.mark.anyio

BODY = GENERATING[CHAT]
ROOM = 9
"""The engine of these tests runs 8 sequences; one more is let in."""


def queue_of(state: ServerState, engine: FakeEngine) -> FairQueue:
    return state.access.queue_of(state.models.default, engine)


class Flood:
    """Calls of one key that fill the engine and wait for it."""

    def __init__(self, client: httpx.AsyncClient, count: int, name: str = "a") -> None:
        body = {**BODY, "stream": True}
        self.calls = [
            asyncio.create_task(client.post(CHAT, json=body, headers=key(name)))
            for _ in range(count)
        ]

    async def statuses(self) -> list[int]:
        return [(await call).status_code for call in self.calls]


async def test_a_flood_of_one_key_does_not_hold_up_another(
    make_state: Callable[..., ServerState], make_client: MakeClient, engine: FakeEngine
) -> None:
    state = make_state(api_keys=("a", "b"))
    client, queue = await make_client(state=state), queue_of(state, engine)
    engine.gate.clear()
    flood = Flood(client, 100)
    await wait_for(lambda: queue.waiting == 100 - ROOM)
    assert len(engine.running) == ROOM
    metrics = (await client.get("/metrics", headers=key("a"))).text
    waiting = 'vllm:num_requests_waiting{engine="0",model_name="fake-model"} '
    assert f"{waiting}{100 - ROOM}.0" in metrics
    load = (await client.get("/load", headers=key("a"))).json()
    assert load["num_waiting_reqs"] == 100 - ROOM
    late = asyncio.create_task(client.post(CHAT, json=BODY, headers=key("b")))
    await wait_for(lambda: queue.waiting == 101 - ROOM)
    engine.gate.set()
    assert (await late).status_code == 200
    assert sum(call.done() for call in flood.calls) < 3 * ROOM
    assert await flood.statuses() == [200] * 100
    assert queue.in_flight == queue.waiting == 0


@pytest.mark.parametrize("route", GENERATING)
async def test_every_generating_route_waits_for_its_turn(
    make_state: Callable[..., ServerState], make_client: MakeClient, engine: FakeEngine, route: str
) -> None:
    state = make_state(api_keys=("a", "b"))
    client, queue = await make_client(state=state), queue_of(state, engine)
    engine.gate.clear()
    flood = Flood(client, ROOM)
    await wait_for(lambda: len(engine.running) == ROOM)
    call = asyncio.create_task(client.post(route, json=GENERATING[route], headers=key("b")))
    await wait_for(lambda: queue.waiting == 1)
    engine.gate.set()
    assert (await call).status_code == 200
    await flood.statuses()


@pytest.mark.parametrize("keys", [(), ("a",)])
async def test_with_one_key_or_none_everything_goes_to_the_engine_at_once(
    make_client: MakeClient, engine: FakeEngine, keys: tuple[str, ...]
) -> None:
    client = await make_client(api_keys=keys)
    engine.gate.clear()
    flood = Flood(client, 40)
    await wait_for(lambda: len(engine.running) == 40)
    engine.gate.set()
    assert await flood.statuses() == [200] * 40


async def test_a_full_queue_of_one_key_is_no_full_queue_of_another(
    make_state: Callable[..., ServerState], make_client: MakeClient, engine: FakeEngine
) -> None:
    state = make_state(api_keys=("a", "b"), max_queued_requests=3)
    client, queue = await make_client(state=state), queue_of(state, engine)
    engine.gate.clear()
    flood = Flood(client, ROOM + 3)
    await wait_for(lambda: queue.waiting == 3)
    refused = await client.post(CHAT, json=BODY, headers=key("a"))
    assert refused.status_code == 503
    assert error_of(refused)["code"] == "server_overloaded"
    assert "retry-after-ms" in refused.headers
    other = asyncio.create_task(client.post(CHAT, json=BODY, headers=key("b")))
    await wait_for(lambda: queue.waiting == 4)
    engine.gate.set()
    assert (await other).status_code == 200
    assert await flood.statuses() == [200] * (ROOM + 3)
    assert state.metrics.queue_rejections._value.get() == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_while_it_waits_leaves_nothing_behind(
    serve: Serve, engine: FakeEngine, stream: bool
) -> None:
    state, client = await serve(api_keys=("a", "b"))
    queue = queue_of(state, engine)
    engine.gate.clear()
    flood = Flood(client, ROOM)
    await wait_for(lambda: len(engine.running) == ROOM)
    async with httpx.AsyncClient(base_url=client.base_url) as leaving:
        body = {**BODY, "stream": stream}
        call = asyncio.create_task(leaving.post(CHAT, json=body, headers=key("b")))
        await wait_for(lambda: queue.waiting == 1)
        call.cancel()
        await wait_for(lambda: not queue.waiting)
    await wait_for(lambda: state.in_flight == ROOM)
    assert state.metrics.client_disconnects._value.get() == 1
    engine.gate.set()
    assert await flood.statuses() == [200] * ROOM
    assert len(engine.submitted) == ROOM
    assert queue.in_flight == 0


async def test_what_waits_when_the_server_stops_is_told_so(
    make_state: Callable[..., ServerState], make_client: MakeClient, engine: FakeEngine
) -> None:
    state = make_state(api_keys=("a", "b"))
    client, queue = await make_client(state=state), queue_of(state, engine)
    engine.gate.clear()
    flood = Flood(client, ROOM + 2)
    await wait_for(lambda: queue.waiting == 2)
    state.stopping.set()
    responses = await asyncio.gather(*flood.calls)
    assert [response.status_code for response in responses[ROOM:]] == [503, 503]
    assert error_of(responses[-1])["code"] == "shutting_down"
    assert queue.in_flight == queue.waiting == 0


async def test_a_call_of_many_answers_counts_as_many(
    make_state: Callable[..., ServerState], make_client: MakeClient, engine: FakeEngine
) -> None:
    state = make_state(api_keys=("a", "b"))
    client, queue = await make_client(state=state), queue_of(state, engine)
    engine.gate.clear()
    bodies: list[dict[str, Any]] = [{**BODY, "n": 128}, BODY]
    calls = []
    for number, body in enumerate(bodies):
        calls.append(asyncio.create_task(client.post(CHAT, json=body, headers=key("a"))))
        await wait_for(lambda number=number: queue.in_flight + queue.waiting >= 128 + number)
    assert (queue.in_flight, queue.waiting) == (128, 1)
    engine.gate.set()
    assert [(await call).status_code for call in calls] == [200, 200]


@pytest.mark.parametrize(("processes", "capacity"), [(1, 9), (2, 5), (3, 4), (8, 2)])
async def test_api_processes_have_equal_shares_of_the_engine(
    make_state: Callable[..., ServerState], engine: FakeEngine, processes: int, capacity: int
) -> None:
    settings = ProcessSettings(api_server_count=processes)
    state = make_state(api_keys=("a", "b"), processes=settings)
    assert queue_of(state, engine).capacity == capacity
