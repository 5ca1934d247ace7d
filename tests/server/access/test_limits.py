"""Limits of keys over HTTP: what is refused, what it costs, and what the headers tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from limited_calls import CHAT, GENERATING, HELLO, MODEL, Clock, error_of, key, wait_for

from windlass.errors import RequestFailedError
from windlass_server.access.caller import Caller, run_as
from windlass_server.access.settings import KeyLimits
from windlass_server.app import create_app

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient

    from windlass_server.state import ServerState

    MakeState = Callable[..., ServerState]

pytestmark = pytest.mark.anyio

BODY = GENERATING[CHAT]
REMAINING = "x-ratelimit-remaining-tokens"


def limited(**limits: int) -> dict[str, Any]:
    return {"api_keys": ("a", "b"), "limits": KeyLimits(**limits)}


@pytest.mark.parametrize("route", GENERATING)
async def test_every_generating_route_counts_requests_and_tells_the_rest(
    make_state: MakeState, make_client: MakeClient, route: str
) -> None:
    state, clock = make_state(**limited(requests_per_minute=2)), Clock()
    clock.turn(state)
    client = await make_client(state=state)
    for left in ("1", "0"):
        response = await client.post(route, json=GENERATING[route], headers=key("a"))
        assert response.status_code == 200
        assert response.headers["x-ratelimit-limit-requests"] == "2"
        assert response.headers["x-ratelimit-remaining-requests"] == left
        assert "x-ratelimit-limit-tokens" not in response.headers
    refused = await client.post(route, json=GENERATING[route], headers=key("a"))
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "30"
    assert refused.headers["retry-after-ms"] == "30000"
    assert refused.headers["x-ratelimit-reset-requests"] == "1m0s"
    assert error_of(refused)["type"] == "rate_limit_error"
    if route != "/v1/messages":
        assert error_of(refused)["code"] == "rate_limit_exceeded"
    other = await client.post(route, json=GENERATING[route], headers=key("b"))
    assert other.status_code == 200
    clock.now += 30
    again = await client.post(route, json=GENERATING[route], headers=key("a"))
    assert again.status_code == 200
    metrics = (await client.get("/metrics", headers=key("a"))).text
    assert 'windlass:rate_limited_total{engine="0",limit="requests_per_minute"' in metrics
    assert state.metrics.rate_limited["requests_per_minute"]._value.get() == 1


async def test_without_limits_there_are_no_headers(make_client: MakeClient) -> None:
    client = await make_client(api_keys=("a",))
    response = await client.post(CHAT, json=BODY, headers=key("a"))
    assert not [name for name in response.headers if name.startswith("x-ratelimit")]


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_are_taken_as_an_estimate_and_settled_with_what_was_used(
    make_state: MakeState, make_client: MakeClient, stream: bool
) -> None:
    state = make_state(**limited(tokens_per_minute=1000))
    Clock().turn(state)
    client = await make_client(state=state)
    asked = {**BODY, "max_tokens": 200, "n": 2, "stream": stream}
    response = await client.post(CHAT, json=asked, headers=key("a"))
    whole = await client.post(CHAT, json=BODY, headers=key("b"))
    usage = whole.json()["usage"]
    prompt = usage["prompt_tokens"]
    assert response.headers[REMAINING] == str(1000 - prompt - 400)
    assert whole.headers[REMAINING] == str(1000 - prompt - 5)
    after = await client.post(CHAT, json=BODY, headers=key("b"))
    assert after.headers[REMAINING] == str(1000 - usage["total_tokens"] - prompt - 5)


@pytest.mark.parametrize("prompts", ["Hello there", ["Hello", "there"], [1, 2, 3], [[1, 2], [3]]])
async def test_prompts_of_completions_are_settled_with_their_true_length(
    make_state: MakeState, make_client: MakeClient, prompts: Any
) -> None:
    state = make_state(**limited(tokens_per_minute=1000))
    Clock().turn(state)
    client = await make_client(state=state)
    body = {**MODEL, "prompt": prompts, "max_tokens": 3}
    first = await client.post("/v1/completions", json=body, headers=key("a"))
    second = await client.post("/v1/completions", json=body, headers=key("a"))
    spent = int(first.headers[REMAINING]) - int(second.headers[REMAINING])
    assert spent == first.json()["usage"]["total_tokens"]


async def test_a_call_without_enough_tokens_left_is_refused_before_the_engine_sees_it(
    make_state: MakeState, make_client: MakeClient, engine: FakeEngine
) -> None:
    state = make_state(**limited(tokens_per_minute=100))
    Clock().turn(state)
    client = await make_client(state=state)
    engine.gate.clear()
    first = asyncio.create_task(client.post(CHAT, json=BODY, headers=key("a")))
    await wait_for(lambda: engine.running)
    refused = await client.post(CHAT, json={**BODY, "max_tokens": 90}, headers=key("a"))
    assert refused.status_code == 429
    assert "100 tokens per minute" in error_of(refused)["message"]
    assert len(engine.submitted) == 1
    engine.gate.set()
    assert (await first).status_code == 200


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"temperature": 9}, 400),
        ({"messages": []}, 400),
        ({"model": "other"}, 404),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, 400),
        ({"stop": ["x"] * 99}, 400),
    ],
)
async def test_what_is_refused_costs_a_request_and_no_tokens(
    make_state: MakeState, make_client: MakeClient, change: dict[str, Any], status: int
) -> None:
    state = make_state(**limited(requests_per_minute=10, tokens_per_minute=1000))
    Clock().turn(state)
    client = await make_client(state=state)
    refused = await client.post(CHAT, json={**BODY, **change}, headers=key("a"))
    assert refused.status_code == status
    response = await client.post(CHAT, json=BODY, headers=key("a"))
    fresh = await client.post(CHAT, json=BODY, headers=key("b"))
    assert response.headers["x-ratelimit-remaining-requests"] == "8"
    assert response.headers[REMAINING] == fresh.headers[REMAINING]


async def test_what_the_engine_refuses_costs_no_tokens(
    make_state: MakeState, make_client: MakeClient, engine: FakeEngine
) -> None:
    state = make_state(**limited(tokens_per_minute=1000, max_concurrent_requests=1))
    Clock().turn(state)
    client = await make_client(state=state)
    engine.overload()
    assert (await client.post(CHAT, json=BODY, headers=key("a"))).status_code == 503
    engine.refusal = None
    response = await client.post(CHAT, json=BODY, headers=key("a"))
    fresh = await client.post(CHAT, json=BODY, headers=key("b"))
    assert response.headers[REMAINING] == fresh.headers[REMAINING]


async def test_so_many_calls_of_a_key_run_at_a_time(
    make_client: MakeClient, engine: FakeEngine
) -> None:
    client = await make_client(**limited(max_concurrent_requests=2))
    engine.gate.clear()
    running = [
        asyncio.create_task(
            client.post(CHAT, json={**BODY, "stream": stream, "n": 3}, headers=key("a"))
        )
        for stream in (True, False)
    ]
    await wait_for(lambda: len(engine.running) == 2)
    refused = await client.post(CHAT, json=BODY, headers=key("a"))
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    other = asyncio.create_task(client.post(CHAT, json=BODY, headers=key("b")))
    await wait_for(lambda: len(engine.running) == 3)
    engine.gate.set()
    assert [(await task).status_code for task in (*running, other)] == [200, 200, 200]
    for _ in range(3):
        assert (await client.post(CHAT, json=BODY, headers=key("a"))).status_code == 200


@pytest.mark.parametrize("failure", ["abort", "die", "fail"])
async def test_calls_that_end_badly_make_room_for_others(
    make_client: MakeClient, engine: FakeEngine, failure: str
) -> None:
    client = await make_client(**limited(max_concurrent_requests=1))
    engine.pause_after = 2
    call = asyncio.create_task(client.post(CHAT, json={**BODY, "stream": True}, headers=key("a")))
    await engine.wait_paused()
    if failure == "abort":
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    elif failure == "die":
        engine.die()
        await call
        engine.dead = None
    else:
        engine.fail(next(iter(engine.running)), RequestFailedError("a step failed"))
        await call
    engine.pause_after = None
    engine.gate.set()
    assert (await client.post(CHAT, json=BODY, headers=key("a"))).status_code == 200


async def test_calls_from_inside_are_held_to_no_limit(
    make_state: MakeState, engine: FakeEngine
) -> None:
    limits = {"requests_per_minute": 1, "tokens_per_minute": 1, "max_concurrent_requests": 1}
    state = make_state(**limited(**limits), queue_timeout=0.01, request_timeout=0.01)
    app = create_app(state)
    holder = Caller("a", "owner", limits=KeyLimits(**limits))

    async def inside(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        run_as(scope, holder)
        await app(scope, receive, send)

    transport = httpx.ASGITransport(inside)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        engine.gate.clear()
        calls = [asyncio.create_task(client.post(CHAT, json=BODY)) for _ in range(5)]
        await wait_for(lambda: len(engine.running) == 5)
        await asyncio.sleep(0.05)
        engine.gate.set()
        assert [(await call).status_code for call in calls] == [200] * 5


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/messages/count_tokens", {"messages": [HELLO]}),
        ("/v1/responses/input_tokens", {"input": "Hello"}),
        ("/tokenize", {"prompt": "Hello"}),
        ("/detokenize", {"tokens": [5]}),
    ],
)
async def test_counting_tokens_costs_a_request(
    make_client: MakeClient, route: str, body: dict[str, Any]
) -> None:
    client = await make_client(**limited(requests_per_minute=2))
    for left in ("1", "0"):
        response = await client.post(route, json={**MODEL, **body}, headers=key("a"))
        assert response.status_code == 200
        assert response.headers["x-ratelimit-remaining-requests"] == left
    refused = await client.post(route, json={**MODEL, **body}, headers=key("a"))
    assert refused.status_code == 429


@pytest.mark.parametrize("separate", [False, True])
async def test_keys_share_cached_prompts_unless_they_are_separated(
    make_client: MakeClient, engine: FakeEngine, separate: bool
) -> None:
    client = await make_client(api_keys=("a", "b"), separate_prefix_caches=separate)
    for name in ("a", "b", "a"):
        for salt in ({}, {"cache_salt": "s" * 1024}):
            response = await client.post(CHAT, json={**BODY, **salt}, headers=key(name))
            assert response.status_code == 200
    salts = [call.requests[0].cache_salt for call in engine.submitted]
    assert salts[:2] == salts[4:]
    assert len(set(salts)) == (4 if separate else 2)
    assert separate or salts[:2] == ["", "s" * 1024]


async def test_scripts_of_allowed_origins_may_read_the_limits(make_client: MakeClient) -> None:
    client = await make_client(allowed_origins=("https://ui.example",))
    response = await client.get("/health", headers={"origin": "https://ui.example"})
    exposed = response.headers["access-control-expose-headers"]
    assert {"retry-after-ms", "x-ratelimit-reset-tokens"} <= set(exposed.split(", "))
