"""Limits of keys, turns and deadlines of calls that embed, rerank or score."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from limited_calls import Clock, error_of, key, wait_for

from windlass.config import PoolingInfo
from windlass_server.access.settings import KeyLimits

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient
    from tests.server.pooling.conftest import Pooling

    from windlass_server.state import ServerState

pytestmark = pytest.mark.anyio

SCORER = PoolingInfo(task="score", method="cls", dimensions=1)
MODEL = {"model": "fake-model"}
RANKED = {**MODEL, "query": "hello", "documents": ["one", "two"]}
CALLS: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {**MODEL, "input": ["hello", "there you are"]},
    "/v1/rerank": RANKED,
    "/v2/rerank": RANKED,
    "/v1/score": {**MODEL, "text_1": "hello", "text_2": ["one", "two"]},
}


def become(pooling: Pooling, route: str) -> None:
    if route != "/v1/embeddings":
        pooling.become(SCORER)


@pytest.mark.parametrize("route", CALLS)
async def test_requests_and_tokens_are_counted_and_settled(
    make_state: Callable[..., ServerState], make_client: MakeClient, pooling: Pooling, route: str
) -> None:
    become(pooling, route)
    limits = KeyLimits(requests_per_minute=3, tokens_per_minute=100, max_concurrent_requests=1)
    state = make_state(api_keys=("a", "b"), limits=limits)
    Clock().turn(state)
    client = await make_client(state=state)
    first = await client.post(route, json=CALLS[route], headers=key("a"))
    second = await client.post(route, json=CALLS[route], headers=key("a"))
    assert (first.status_code, second.status_code) == (200, 200)
    usage = first.json()["usage"]["total_tokens"]
    remaining = "x-ratelimit-remaining-tokens"
    assert int(first.headers[remaining]) - int(second.headers[remaining]) == usage
    wrong = await client.post(route, json=MODEL, headers=key("a"))
    assert wrong.status_code == 400
    refused = await client.post(route, json=CALLS[route], headers=key("a"))
    assert refused.status_code == 429
    assert error_of(refused)["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize("route", CALLS)
async def test_a_call_that_takes_too_long_is_a_504_and_is_aborted(
    make_client: MakeClient, engine: FakeEngine, pooling: Pooling, route: str
) -> None:
    become(pooling, route)
    client = await make_client(queue_timeout=0.01)
    engine.gate.clear()
    headers = {"x-request-timeout": "0.03"}
    response = await client.post(route, json=CALLS[route], headers=headers)
    assert response.status_code == 504
    assert error_of(response)["code"] == "deadline_exceeded"
    assert pooling.aborted == ["job"]


@pytest.mark.parametrize("route", CALLS)
async def test_calls_wait_for_their_key_s_turn(
    make_state: Callable[..., ServerState],
    make_client: MakeClient,
    engine: FakeEngine,
    pooling: Pooling,
    route: str,
) -> None:
    become(pooling, route)
    state = make_state(api_keys=("a", "b"))
    client = await make_client(state=state)
    queue = state.access.queue_of(state.models.default, engine)
    engine.gate.clear()
    first = asyncio.create_task(client.post(route, json=CALLS[route], headers=key("a")))
    await wait_for(lambda: queue.in_flight == 2)
    queue.in_flight += 7
    second = asyncio.create_task(client.post(route, json=CALLS[route], headers=key("b")))
    await wait_for(lambda: queue.waiting == 1)
    assert len(pooling.jobs) == 1
    engine.gate.set()
    assert [(await call).status_code for call in (first, second)] == [200, 200]
    assert queue.in_flight == 7


async def test_a_queue_that_is_too_slow_is_called_so(
    make_state: Callable[..., ServerState],
    make_client: MakeClient,
    engine: FakeEngine,
    pooling: Pooling,
) -> None:
    state = make_state(api_keys=("a", "b"), queue_timeout=0.03)
    client = await make_client(state=state)
    queue = state.access.queue_of(state.models.default, engine)
    queue.in_flight = 9
    route = "/v1/embeddings"
    response = await client.post(route, json=CALLS[route], headers=key("a"))
    assert response.status_code == 503
    assert error_of(response)["code"] == "queue_timeout"
    assert not pooling.jobs
    assert queue.waiting == 0
