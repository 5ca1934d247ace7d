"""The caller that every route sees, calls from inside the process, admin and operator keys."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import APIRouter
from starlette.requests import Request

from windlass_server.access.caller import ANYONE, Caller, caller, run_as
from windlass_server.access.permissions import require_admin, require_operator
from windlass_server.app import create_app
from windlass_server.state import ServerState

if TYPE_CHECKING:
    from fastapi import FastAPI

pytestmark = pytest.mark.anyio

router = APIRouter()


@router.get("/whoami")
async def whoami(request: Request) -> dict[str, Any]:
    found = caller(request)
    assert found is caller(request.scope)
    return {"name": found.name, "owner": found.owner, "admin": found.admin}


@router.post("/change")
async def change(request: Request) -> str:
    require_admin(request)
    return "changed"


@router.get("/look")
async def look(request: Request) -> str:
    require_operator(request)
    return "seen"


@pytest.fixture
def make_app(make_state: Callable[..., ServerState]) -> Callable[..., FastAPI]:
    def make(**settings: Any) -> FastAPI:
        app = create_app(make_state(**settings))
        app.include_router(router)
        return app

    return make


def client_of(app: Any, key: str | None = None, base_url: str = "http://127.0.0.1:8000") -> Any:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url=base_url, headers=headers)


async def test_a_route_sees_whose_key_it_is(make_app: Callable[..., FastAPI]) -> None:
    app = make_app(api_keys=("a", "b"), admin_api_keys=("root",))
    found = []
    for key in ("a", "b", "root"):
        async with client_of(app, key) as client:
            found.append((await client.get("/whoami")).json())
    assert [one["name"] for one in found] == ["api-key-1", "api-key-2", "admin-api-key-1"]
    assert [one["admin"] for one in found] == [False, False, True]
    assert len({one["owner"] for one in found}) == 3
    async with client_of(app) as client:
        assert (await client.get("/whoami")).status_code == 401


async def test_without_keys_everyone_is_the_same_nameless_caller(
    make_app: Callable[..., FastAPI],
) -> None:
    async with client_of(make_app(), "anything") as client:
        assert (await client.get("/whoami")).json() == {"name": "", "owner": "", "admin": False}


async def test_the_process_itself_may_call_for_a_caller_and_no_client_can(
    make_app: Callable[..., FastAPI],
) -> None:
    app = make_app(api_keys=("a",))
    batch = Caller("batch", "0" * 32)

    async def inside(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        run_as(scope, batch)
        await app(scope, receive, send)

    async def outside(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        # Whatever a client writes arrives as bytes and text, never as the object of `run_as`.
        scope["state"] = {"runs_as": "batch", "caller": "batch"}
        await app(scope, receive, send)

    async with client_of(inside) as client:
        assert (await client.get("/whoami")).json()["name"] == "batch"
    async with client_of(outside) as client:
        assert (await client.get("/whoami")).status_code == 401
    assert ANYONE.owner == ""


@pytest.mark.parametrize(
    ("settings", "key", "changes", "looks"),
    [
        ({"api_keys": ("a",), "admin_api_keys": ("root",)}, "root", 200, 200),
        ({"api_keys": ("a",), "admin_api_keys": ("root",)}, "a", 403, 403),
        ({"api_keys": ("a",)}, "a", 403, 200),
        ({"admin_api_keys": ("root",)}, "root", 200, 200),
        ({"admin_api_keys": ("root",)}, None, 401, 401),
        ({}, None, 200, 200),
        ({"host": "localhost"}, None, 200, 200),
        ({"host": "::1"}, None, 200, 200),
        ({"host": "0.0.0.0"}, None, 403, 200),
        ({"host": "example.org"}, None, 403, 200),
        ({"host": "0.0.0.0", "uds": "/tmp/socket"}, None, 200, 200),
    ],
)
async def test_changing_needs_an_admin_key_or_a_server_that_only_this_host_reaches(
    make_app: Callable[..., FastAPI],
    settings: dict[str, Any],
    key: str | None,
    changes: int,
    looks: int,
) -> None:
    async with client_of(make_app(**settings), key) as client:
        for method, path, status in (("POST", "/change", changes), ("GET", "/look", looks)):
            response = await client.request(method, path)
            assert response.status_code == status
            if status == 403:
                error = response.json()["error"]
                assert error["type"] == "permission_error"
                assert "--admin-api-key" in error["message"]


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:8000", None, 200),
        ("localhost:8000", None, 200),
        ("[::1]:8000", "http://[::1]:8000", 200),
        ("localhost:8000", "http://localhost:8000", 200),
        ("localhost:8000", "https://ui.example", 200),
        ("localhost:8000", "https://evil.example", 403),
        ("localhost:8000", "null", 403),
        ("evil.example:8000", None, 403),
        ("evil.example:8000", "http://evil.example:8000", 403),
        ("[", None, 403),
        ("", None, 403),
    ],
)
async def test_without_keys_pages_of_other_sites_cannot_change_a_local_server(
    make_app: Callable[..., FastAPI], host: str, origin: str | None, status: int
) -> None:
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    async with client_of(make_app(allowed_origins=("https://ui.example",))) as client:
        assert (await client.post("/change", headers=headers)).status_code == status
