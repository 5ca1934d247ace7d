"""What a key stores is not there for another key, in whatever way it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from limited_calls import GENERATING, error_of, key

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient

    from windlass_server.state import ServerState

pytestmark = pytest.mark.anyio

ROUTE = "/v1/responses"
HELLO = GENERATING[ROUTE]
MINE, OTHERS, ADMIN = key("one"), key("two"), key("root")
KEYS: dict[str, Any] = {"api_keys": ("one", "two"), "admin_api_keys": ("root",)}
UNKNOWN = "resp_0000"


@pytest.mark.parametrize("stranger", [OTHERS, ADMIN], ids=["another key", "an admin key"])
async def test_a_stored_response_is_told_from_none_by_its_owner_only(
    make_client: MakeClient, stranger: dict[str, str]
) -> None:
    client = await make_client(**KEYS)
    body = (await client.post(ROUTE, json=HELLO, headers=MINE)).json()
    item = body["output"][0]["id"]
    calls: list[tuple[str, str, Any]] = [
        ("GET", f"{ROUTE}/{{}}", None),
        ("GET", f"{ROUTE}/{{}}?stream=true", None),
        ("GET", f"{ROUTE}/{{}}/input_items", None),
        ("POST", f"{ROUTE}/{{}}/cancel", None),
        ("DELETE", f"{ROUTE}/{{}}", None),
    ]
    for method, path, _ in calls:
        refused = await client.request(method, path.format(body["id"]), headers=stranger)
        unknown = await client.request(method, path.format(UNKNOWN), headers=stranger)
        assert refused.status_code == 404
        assert error_of(refused) == error_of(unknown)
    for change in (
        {"previous_response_id": body["id"]},
        {"input": [{"type": "item_reference", "id": item}]},
    ):
        for path in (ROUTE, f"{ROUTE}/input_tokens"):
            refused = await client.post(path, json={**HELLO, **change}, headers=stranger)
            assert refused.status_code == 400
            accepted = await client.post(path, json={**HELLO, **change}, headers=MINE)
            assert accepted.status_code == 200, accepted.text
    assert (await client.get(f"{ROUTE}/{body['id']}", headers=MINE)).json() == body
    assert (await client.delete(f"{ROUTE}/{body['id']}", headers=MINE)).status_code == 200


async def test_a_running_response_is_seen_and_cancelled_by_its_owner_only(
    make_client: MakeClient, engine: FakeEngine
) -> None:
    client = await make_client(**KEYS)
    engine.pause_after = 2
    body = (await client.post(ROUTE, json={**HELLO, "background": True}, headers=MINE)).json()
    await engine.wait_paused()
    path = f"{ROUTE}/{body['id']}"
    for method, suffix in (("GET", ""), ("GET", "?stream=true"), ("POST", "/cancel")):
        refused = await client.request(method, path + suffix, headers=OTHERS)
        assert refused.status_code == 404
    assert engine.running
    mine = {"x-api-key": "one"}
    assert (await client.get(path, headers=mine)).json()["status"] == "in_progress"
    assert (await client.post(f"{path}/cancel", headers=mine)).json()["status"] == "cancelled"


async def test_a_key_that_is_replaced_under_its_name_keeps_what_it_owns(
    make_state: Callable[..., ServerState], make_client: MakeClient, tmp_path: Path
) -> None:
    path = tmp_path / "keys.toml"
    entry = '[[keys]]\nname = "{}"\nkey = "{}"\n'
    path.write_text(entry.format("team", "old") + entry.format("other", "x"))
    state = make_state(api_key_file=str(path))
    client = await make_client(state=state)
    body = (await client.post(ROUTE, json=HELLO, headers=key("old"))).json()
    path.write_text(entry.format("team", "new") + entry.format("other", "old"))
    state.access.reload()
    stored = f"{ROUTE}/{body['id']}"
    assert (await client.get(stored, headers=key("new"))).status_code == 200
    assert (await client.get(stored, headers=key("old"))).status_code == 404
    assert (await client.get(stored, headers=key("x"))).status_code == 401


async def test_running_calls_outlive_the_key_that_made_them(
    make_state: Callable[..., ServerState],
    make_client: MakeClient,
    engine: FakeEngine,
    tmp_path: Path,
) -> None:
    path = tmp_path / "keys.toml"
    path.write_text('[[keys]]\nname = "a"\nkey = "a"\nmax_concurrent_requests = 1\n')
    state = make_state(api_key_file=str(path))
    client = await make_client(state=state)
    engine.pause_after = 2
    call = asyncio.create_task(client.post(ROUTE, json=HELLO, headers=key("a")))
    await engine.wait_paused()
    path.write_text('[[keys]]\nname = "b"\nkey = "b"\n')
    state.access.reload()
    engine.pause_after = None
    engine.gate.set()
    assert (await call).status_code == 200
    assert (await client.post(ROUTE, json=HELLO, headers=key("a"))).status_code == 401
    assert (await client.post(ROUTE, json=HELLO, headers=key("b"))).status_code == 200
