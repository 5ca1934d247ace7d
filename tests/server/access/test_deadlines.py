"""Deadlines: of the server and of the request, in the queue, before and within a stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from limited_calls import CHAT, GENERATING, error_of, key, wait_for

from windlass_server.access.deadline import QUEUE, REQUEST, Deadline
from windlass_server.errors import ApiError

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient

    from windlass_server.state import ServerState

pytestmark = pytest.mark.anyio

BODY = GENERATING[CHAT]
SOON = 0.03
"""Seconds; nothing here depends on how much later it is noticed."""


def events(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.startswith("data: ")]
    return [line.removeprefix("data: ") for line in lines]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", GENERATING)
async def test_without_output_in_time_the_queue_is_called_too_slow(
    make_client: MakeClient, engine: FakeEngine, route: str, stream: bool
) -> None:
    client = await make_client(queue_timeout=SOON)
    engine.gate.clear()
    response = await client.post(route, json={**GENERATING[route], "stream": stream})
    if route == "/v1/responses":
        # Its events begin before there is any output.
        text = response.text
        assert "queue_timeout" in text or "waited for 0.03 s" in text
    else:
        assert response.status_code == 503
        assert response.headers["retry-after"] == "5"
        assert error_of(response)["type"] == "overloaded_error"
        assert "waited for 0.03 s" in error_of(response)["message"]
        if route != "/v1/messages":
            assert error_of(response)["code"] == "queue_timeout"
    assert len(engine.aborted) == 1
    assert not engine.running
    metrics = (await client.get("/metrics")).text
    passed = 'windlass:deadlines_passed_total{deadline="queue",engine="0",model_name="fake-model"}'
    assert f"{passed} 1.0" in metrics


@pytest.mark.parametrize("route", GENERATING)
async def test_an_answer_that_takes_too_long_is_a_504_and_the_engine_stops(
    make_client: MakeClient, engine: FakeEngine, route: str
) -> None:
    client = await make_client(request_timeout=SOON, queue_timeout=60.0)
    engine.pause_after = 2
    response = await client.post(route, json=GENERATING[route])
    if route != "/v1/responses":
        assert response.status_code == 504
        assert response.headers["x-should-retry"] == "false"
        assert error_of(response)["type"] == "timeout_error"
        if route != "/v1/messages":
            assert error_of(response)["code"] == "deadline_exceeded"
    assert len(engine.aborted) == 1
    assert not engine.running


async def test_a_stream_that_takes_too_long_ends_with_an_error_event(
    make_client: MakeClient, engine: FakeEngine
) -> None:
    client = await make_client(request_timeout=SOON)
    engine.pause_after = 2
    response = await client.post(CHAT, json={**BODY, "stream": True})
    assert response.status_code == 200
    *_, last, done = events(response.text)
    assert json.loads(last)["error"]["code"] == "deadline_exceeded"
    assert done == "[DONE]"
    assert 'finish_reason":"' not in response.text
    assert len(engine.aborted) == 1


async def test_a_queue_that_is_too_slow_for_a_stream_that_has_begun_is_an_error_event(
    make_client: MakeClient, engine: FakeEngine
) -> None:
    client = await make_client(queue_timeout=3 * SOON, keep_alive_interval=SOON / 3)
    engine.gate.clear()
    response = await client.post(CHAT, json={**BODY, "stream": True})
    assert response.status_code == 200
    assert ": keep-alive" in response.text
    error, done = events(response.text)
    assert json.loads(error)["error"]["code"] == "queue_timeout"
    assert done == "[DONE]"


async def test_a_stream_of_anthropic_s_ends_with_anthropic_s_error(
    make_client: MakeClient, engine: FakeEngine
) -> None:
    client = await make_client(request_timeout=SOON)
    engine.pause_after = 2
    body = {**GENERATING["/v1/messages"], "stream": True}
    response = await client.post("/v1/messages", json=body)
    error = json.loads(events(response.text)[-1])
    assert error["type"] == "error"
    assert error["error"]["type"] == "timeout_error"


async def test_the_first_output_ends_the_wait_and_the_whole_time_goes_on(
    make_client: MakeClient, engine: FakeEngine
) -> None:
    client = await make_client(queue_timeout=SOON, request_timeout=60.0)
    engine.pause_after = 2
    call = asyncio.create_task(client.post(CHAT, json={**BODY, "stream": True}))
    await engine.wait_paused()
    await asyncio.sleep(3 * SOON)
    engine.gate.set()
    response = await call
    assert "error" not in response.text
    assert not engine.aborted


@pytest.mark.parametrize("several", [{"n": 3}, {"prompt": ["a", "b", "c"]}])
async def test_every_answer_of_a_call_is_stopped(
    make_client: MakeClient, engine: FakeEngine, several: dict[str, Any]
) -> None:
    client = await make_client(request_timeout=SOON)
    engine.gate.clear()
    route = "/v1/completions"
    response = await client.post(route, json={**GENERATING[route], **several})
    assert response.status_code == 504
    assert not engine.running


@pytest.mark.parametrize(
    ("header", "field", "server", "seconds"),
    [
        ("0.03", None, None, "0.03"),
        (None, 0.03, None, "0.03"),
        ("0.03", None, 60.0, "0.03"),
        ("60", None, 0.03, "0.03"),
        ("60", 0.03, None, "0.03"),
        ("0.03", 60, 60.0, "0.03"),
    ],
)
async def test_the_shortest_time_holds(
    make_client: MakeClient,
    engine: FakeEngine,
    header: str | None,
    field: float | None,
    server: float | None,
    seconds: str,
) -> None:
    client = await make_client(request_timeout=server)
    engine.gate.clear()
    headers = {} if header is None else {"x-request-timeout": header}
    body = BODY if field is None else {**BODY, "timeout": field}
    response = await client.post(CHAT, json=body, headers=headers)
    assert response.status_code == 504
    assert f"within {seconds} s" in error_of(response)["message"]


@pytest.mark.parametrize(
    "given", ["0", "-1", "", "soon", "nan", "inf", "1e3", "1_0", "0x1", "1.", ".5", "9" * 10, "+1"]
)
async def test_a_header_that_is_no_time_is_refused_by_name(
    make_client: MakeClient, engine: FakeEngine, given: str
) -> None:
    client = await make_client()
    response = await client.post(CHAT, json=BODY, headers={"x-request-timeout": given})
    assert response.status_code == 400
    assert error_of(response)["param"] == "x-request-timeout"
    assert not engine.submitted


@pytest.mark.parametrize("given", [0, -1, "5", True, [5], {}])
async def test_a_field_that_is_no_time_is_refused_by_name(
    make_client: MakeClient, given: object
) -> None:
    client = await make_client()
    response = await client.post(CHAT, json={**BODY, "timeout": given})
    assert response.status_code == 400
    assert error_of(response)["param"] == "timeout"


async def test_a_time_that_is_long_enough_changes_nothing(make_client: MakeClient) -> None:
    client = await make_client(request_timeout=60.0)
    for body, headers in (({"timeout": 30}, {}), ({"timeout": None}, {"x-request-timeout": "30"})):
        response = await client.post(CHAT, json={**BODY, **body}, headers=headers)
        assert response.status_code == 200
        assert "x-windlass-warning" not in response.headers


@pytest.mark.parametrize(
    ("settings", "status", "code"),
    [
        ({"queue_timeout": SOON}, 503, "queue_timeout"),
        ({"request_timeout": SOON}, 504, "deadline_exceeded"),
    ],
)
async def test_deadlines_hold_for_those_that_wait_for_their_turn(
    make_state: Callable[..., ServerState],
    make_client: MakeClient,
    engine: FakeEngine,
    settings: dict[str, float],
    status: int,
    code: str,
) -> None:
    state = make_state(api_keys=("a", "b"), **settings)
    client = await make_client(state=state)
    queue = state.access.queue_of(state.models.default, engine)
    queue.capacity, queue.in_flight = 9, 9
    response = await client.post(CHAT, json=BODY, headers=key("b"))
    assert response.status_code == status
    assert error_of(response)["code"] == code
    assert not engine.submitted
    assert queue.waiting == 0


async def test_no_timer_is_left_when_calls_end(make_client: MakeClient, engine: FakeEngine) -> None:
    client = await make_client(queue_timeout=3600.0, request_timeout=3600.0)
    loop: Any = asyncio.get_running_loop()
    for body in (BODY, {**BODY, "stream": True}, {**BODY, "temperature": 9}):
        await client.post(CHAT, json=body)
    engine.overload()
    await client.post(CHAT, json=BODY)
    assert not [timer for timer in loop._scheduled if not timer.cancelled()]


async def test_a_deadline_is_told_once() -> None:
    told: list[str] = []
    deadline = Deadline(SOON, None, told.append)
    errors: list[ApiError] = []
    deadline.watch(errors.append)
    await wait_for(lambda: errors)
    with pytest.raises(ApiError):
        deadline.check()
    again: list[ApiError] = []
    deadline.watch(again.append)
    assert again == errors
    assert told == [QUEUE]


async def test_work_before_the_queue_is_held_to_the_deadline() -> None:
    told: list[str] = []
    deadline = Deadline(None, SOON, told.append)
    ended = False

    async def work() -> None:
        nonlocal ended
        try:
            await asyncio.Event().wait()
        finally:
            ended = True

    with pytest.raises(ApiError) as found:
        await deadline.within(work())
    assert found.value.status == 504
    assert ended
    assert told == [REQUEST]
