"""Keys, body limits, request ids and origins."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from windlass_server.app import create_app
from windlass_server.state import ServerState

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {
    "model": "fake-model",
    "messages": [{"role": "user", "content": "Hello"}],
}
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"]
PUBLIC = {"/health", "/ready", "/ping", "/"}
EVERY_PATH = {
    *PUBLIC,
    CHAT,
    "/v1/completions",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/responses",
    "/v1/responses/input_tokens",
    "/v1/responses/{response_id}",
    "/v1/responses/{response_id}/cancel",
    "/v1/responses/{response_id}/input_items",
    "/v1/files",
    "/v1/files/{file_id}",
    "/v1/files/{file_id}/content",
    "/v1/batches",
    "/v1/batches/{batch_id}",
    "/v1/batches/{batch_id}/cancel",
    "/v1/embeddings",
    "/rerank",
    "/v1/rerank",
    "/v2/rerank",
    "/score",
    "/v1/score",
    "/tokenize",
    "/detokenize",
    "/tokenizer_info",
    "/openapi.json",
    "/v1/models",
    "/v1/models/{model:path}",
    "/metrics",
    "/version",
    "/load",
    "/server_info",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/windlass/view",
    "/sleep",
    "/wake_up",
    "/is_sleeping",
    "/models/load",
    "/models/unload",
    "/ui/{name}",
}


def paths(state: ServerState) -> set[str]:
    return {str(context.path) for context in iter_route_contexts(create_app(state).routes)}


async def test_the_app_has_exactly_the_known_routes(
    make_state: Callable[..., ServerState],
) -> None:
    assert paths(make_state()) == EVERY_PATH


@pytest.mark.parametrize("method", METHODS)
async def test_every_route_but_the_probes_needs_a_key(make_client: MakeClient, method: str) -> None:
    client = await make_client(api_keys=("secret", "other"))
    odd = [
        "/ui/",
        "/ui/index.html",
        "/nothing",
        "/v1//models",
        "/V1/models",
        "/health/../v1/models",
        "/health/",
    ]
    for path in [*sorted(EVERY_PATH - PUBLIC), *odd]:
        response = await client.request(method, path)
        assert response.status_code == 401, path
        assert response.headers["www-authenticate"] == "Bearer"
        if method != "HEAD":
            error = response.json()["error"]
            assert error["type"] == "authentication_error"
            assert path.startswith("/v1/messages") or error["code"] == "invalid_api_key"
    for path in PUBLIC:
        assert (await client.request(method, path)).status_code in (200, 405)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": "Bearer secret"}, 200),
        ({"authorization": "bearer other"}, 200),
        ({"x-api-key": "secret"}, 200),
        ({"authorization": "Bearer wrong", "x-api-key": "other"}, 200),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "Basic secret"}, 401),
        ({"authorization": "secret"}, 401),
        ({"authorization": "Bearer secretsecret"}, 401),
        ({"authorization": b"Bearer \xff\xfe"}, 401),
        ({"x-api-key": ""}, 401),
        ({}, 401),
    ],
)
async def test_a_key_comes_as_bearer_or_x_api_key(
    make_client: MakeClient, headers: dict[str, Any], status: int
) -> None:
    client = await make_client(api_keys=("secret", "other"))
    response = await client.get("/v1/models", headers=headers)
    assert response.status_code == status


async def test_metrics_and_version_can_be_made_public(make_client: MakeClient) -> None:
    client = await make_client(api_keys=("secret",), public_metrics=True)
    assert (await client.get("/metrics")).status_code == 200
    assert (await client.get("/version")).status_code == 200
    assert (await client.get("/v1/models")).status_code == 401


async def test_a_host_header_does_not_open_a_door(make_client: MakeClient) -> None:
    client = await make_client(api_keys=("secret",))
    for host in ("server/health?", "server/health#", "x"):
        response = await client.get("/v1/models", headers={"host": host})
        assert response.status_code == 401


async def test_keys_do_not_show_in_the_settings_text(
    make_state: Callable[..., ServerState],
) -> None:
    assert "secret" not in repr(make_state(api_keys=("secret",)).settings)


def body_of(size: int) -> bytes:
    empty = json.dumps({**HELLO, "user": ""}).encode()
    return json.dumps({**HELLO, "user": "x" * (size - len(empty))}).encode()


async def parts(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 100):
        yield body[start : start + 100]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_is_accepted_at_the_limit_and_refused_above(
    make_client: MakeClient, chunked: bool
) -> None:
    client = await make_client(max_body_bytes=1000)
    headers = {"content-type": "application/json"}
    for size, status in ((1000, 200), (1001, 413)):
        content: Any = parts(body_of(size)) if chunked else body_of(size)
        response = await client.post(CHAT, content=content, headers=headers)
        assert response.status_code == status
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "request_too_large")


async def test_a_length_that_is_too_large_is_refused_before_the_body_is_read(
    make_client: MakeClient,
) -> None:
    client = await make_client(max_body_bytes=1000)

    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    headers = {"content-type": "application/json", "content-length": "1001"}
    response = await client.post(CHAT, content=unread(), headers=headers)
    assert response.status_code == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({f"x-{index}": "" for index in range(120)}, 200),
        ({f"x-{index}": "" for index in range(130)}, 431),
        ({"x-big": "x" * 60_000}, 200),
        ({"x-big": "x" * 70_000}, 431),
    ],
)
async def test_the_head_of_a_request_is_bounded(
    client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    response = await client.get("/health", headers=headers)
    assert response.status_code == status
    if status == 431:
        assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("given", ["abc", "A-b_c.9", "x" * 128])
async def test_a_good_request_id_is_kept(client: httpx.AsyncClient, given: str) -> None:
    for path in ("/health", "/nothing"):
        response = await client.get(path, headers={"x-request-id": given})
        assert response.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "ä".encode(), "a/b", "a:b"])
async def test_another_request_id_is_replaced(
    client: httpx.AsyncClient, given: str | bytes
) -> None:
    headers: dict[str, Any] = {"x-request-id": given}
    response = await client.get("/health", headers=headers)
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


async def test_the_client_s_request_id_is_not_the_engine_s(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    headers = {"x-request-id": "mine"}
    for stream in (True, False):
        response = await client.post(CHAT, json={**HELLO, "stream": stream}, headers=headers)
        assert response.headers["x-request-id"] == "mine"
    assert len({p.request_id for p in engine.submitted}) == 2


async def test_browsers_are_let_in_from_allowed_origins_only(make_client: MakeClient) -> None:
    client = await make_client(allowed_origins=("https://ui.example",), api_keys=("secret",))
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    for origin, allowed in (("https://ui.example", True), ("https://evil.example", False)):
        preflight = await client.options(CHAT, headers={"origin": origin, **asked})
        assert (preflight.headers.get("access-control-allow-origin") == origin) is allowed
        refused = await client.post(CHAT, json=HELLO, headers={"origin": origin})
        assert refused.status_code == 401
        assert ("access-control-allow-origin" in refused.headers) is allowed


async def test_without_origins_no_browser_is_let_in(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/models", headers={"origin": "https://ui.example"})
    assert "access-control-allow-origin" not in response.headers


async def test_the_access_log_has_one_clean_line_per_request(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "windlass_server.access")
    client = await make_client(access_log=True)
    await client.get("/a%0Ab%1B", headers={"x-request-id": "id1"})
    (record,) = [r for r in caplog.records if r.name == "windlass_server.access"]
    message = record.getMessage()
    assert message.startswith("GET /a\\nb\\x1b 404 ")
    assert message.endswith(" id1")
