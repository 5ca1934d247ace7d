"""Every route of the application, with every method, key and kind of body: nothing gets past.

What the routes are is asked of the application, so that a new one is walked without being listed.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from limited_calls import GENERATING, MODEL, key

from windlass_server.app import create_app
from windlass_server.batches.settings import BatchSettings
from windlass_server.openapi import BODIES

if TYPE_CHECKING:
    from tests.server.conftest import MakeClient, Serve

    from windlass_server.state import ServerState

    MakeState = Callable[..., ServerState]

pytestmark = pytest.mark.anyio

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND")
PUBLIC = {"/health", "/ready", "/ping", "/"}
ADMIN = {("POST", path) for path in ("/sleep", "/wake_up", "/models/load", "/models/unload")}
OPERATOR = {("GET", path) for path in ("/load", "/server_info", "/is_sleeping", "/windlass/view")}
CANARY = "canary-7f3a91"
JSON = {"content-type": "application/json"}
PLAIN, ROOT = "plain-key-51c0", "root-key-51c0"
KEYS: dict[str, Any] = {"api_keys": (PLAIN,), "admin_api_keys": (ROOT,)}
TELLS = re.compile(
    r"/(work|usr|home|root|tmp|opt|var|etc)/|site-packages|Traceback|\.py\b|0x[0-9a-f]{6,}|<class"
    r"|\b(pydantic|starlette|fastapi|msgspec|uvicorn|windlass_server|asyncio|torch)\b"
    r"|\b[A-Z]\w*(Error|Exception)\b|NoneType|\b(127\.0\.0\.1|localhost)\b"
)
"""What no message may hold: paths, addresses, names of modules and classes."""


def routes(state: ServerState) -> list[tuple[str, set[str]]]:
    """Every path with an id in place of its parameters, and the methods that it has."""
    found: dict[str, set[str]] = {}
    for context in iter_route_contexts(create_app(state).routes):
        path = re.sub(r"\{[^}]+\}", CANARY, str(context.path))
        found.setdefault(path, set()).update(context.methods or ())
    return sorted(found.items())


def check_error(response: httpx.Response, path: str, sent: str | None = None) -> None:
    """The one shape, of OpenAI or of Anthropic, and a message that tells nothing of ours."""
    assert response.headers["x-request-id"]
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    if path.startswith("/v1/messages"):
        assert set(body) == {"type", "error", "request_id"}
        assert set(body["error"]) == {"type", "message"}
    else:
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
    message = body["error"]["message"]
    assert message.endswith((".", "?")), message
    assert not TELLS.search(message), message
    assert sent is None or sent not in message, message


@pytest.fixture
def state(make_state: MakeState, tmp_path: Path) -> ServerState:
    batches = BatchSettings(directory=str(tmp_path / "batches"))
    return make_state(**KEYS, batches=batches, max_body_bytes=100_000)


@pytest.fixture
async def client(state: ServerState, make_client: MakeClient) -> AsyncIterator[httpx.AsyncClient]:
    yield await make_client(state=state)
    if state.batches is not None:
        state.batches.close()


NO_KEYS: list[dict[str, str]] = [
    {},
    key("wrong"),
    key(""),
    key(PLAIN + "x"),
    key(PLAIN[:-1]),
    {"authorization": PLAIN},
    {"authorization": f"Basic {PLAIN}"},
    {"x-api-key": "wrong"},
    {"x-api-key": ""},
    {"api-key": PLAIN},
    {"cookie": f"authorization=Bearer {PLAIN}"},
]


@pytest.mark.parametrize("headers", NO_KEYS, ids=str)
async def test_without_a_key_every_route_is_closed_to_every_method(
    client: httpx.AsyncClient, state: ServerState, headers: dict[str, str]
) -> None:
    for path, _ in routes(state):
        for method in METHODS:
            response = await client.request(method, path, headers=headers)
            if path in PUBLIC:
                assert response.status_code in (200, 405)
                continue
            assert response.status_code == 401, (method, path)
            assert response.headers["www-authenticate"] == "Bearer"
            if method != "HEAD":
                check_error(response, path, CANARY)


async def test_a_key_in_the_query_is_none(client: httpx.AsyncClient) -> None:
    for name in ("api_key", "key", "access_token", "x-api-key", "authorization"):
        assert (await client.get("/v1/models", params={name: PLAIN})).status_code == 401


async def test_methods_that_a_route_lacks_are_named(
    client: httpx.AsyncClient, state: ServerState
) -> None:
    for path, methods in routes(state):
        for method in METHODS:
            # There an id may stand, which could be any word.
            if method in methods or path == "/v1/responses/input_tokens":
                continue
            response = await client.request(method, path, headers=key(ROOT))
            assert response.status_code == 405, (method, path)
            allowed = set(response.headers["allow"].split(", "))
            assert allowed & methods
            assert method not in allowed
            if method != "HEAD":
                check_error(response, path)


async def test_only_an_admin_key_changes_the_server_or_looks_into_it(
    client: httpx.AsyncClient, state: ServerState
) -> None:
    known = {(method, path) for path, methods in routes(state) for method in methods}
    assert known >= ADMIN | OPERATOR
    for method, path in sorted(ADMIN | OPERATOR):
        refused = await client.request(method, path, headers=key(PLAIN))
        assert refused.status_code == 403, path
        check_error(refused, path)
        assert refused.json()["error"]["type"] == "permission_error"
        assert "--admin-api-key" in refused.json()["error"]["message"]
    assert state.models.default.engine is not None, "nobody has put it to sleep"
    for method, path in sorted(OPERATOR):
        assert (await client.request(method, path, headers=key(ROOT))).status_code == 200
    for method, path in sorted(known - ADMIN - OPERATOR):
        response = await client.request(method, path, headers=key(PLAIN))
        assert response.status_code != 403, path


WRONG_BODIES: dict[str, tuple[bytes, dict[str, str], set[int]]] = {
    "empty": (b"", JSON, {400}),
    "not JSON": (CANARY.encode(), JSON, {400}),
    "not UTF-8": (b'{"model": "\xff\xfe' + CANARY.encode() + b'"}', JSON, {400}),
    "cut off": (b'{"model": "' + CANARY.encode(), JSON, {400}),
    "an array": (f'["{CANARY}"]'.encode(), JSON, {400}),
    "a text": (f'"{CANARY}"'.encode(), JSON, {400}),
    "null": (b"null", JSON, {400}),
    "no fields": (b"{}", JSON, {400}),
    "deep": (b'{"model": ' + b"[" * 5000 + b"]" * 5000 + b"}", JSON, {400}),
    "a form": (b"model=" + CANARY.encode(), {"content-type": "text/plain"}, {415}),
    "no type": (b"{}", {}, {415}),
    "compressed": (b"\x1f\x8b\x08\x00", {**JSON, "content-encoding": "gzip"}, {415}),
    "too large": (b'{"model": "' + b"x" * 200_000 + b'"}', JSON, {413}),
}


@pytest.mark.parametrize("kind", WRONG_BODIES)
async def test_a_wrong_body_is_refused_by_every_route_that_takes_one(
    client: httpx.AsyncClient, kind: str
) -> None:
    content, headers, statuses = WRONG_BODIES[kind]
    for path in BODIES:
        # What has no required field takes an empty object.
        if kind == "no fields" and not BODIES[path].model_json_schema().get("required"):
            continue
        response = await client.post(path, content=content, headers={**headers, **key(ROOT)})
        assert response.status_code in statuses, (path, response.text)
        check_error(response, path, CANARY)


async def test_a_body_that_nobody_asked_for_harms_no_route(
    client: httpx.AsyncClient, state: ServerState
) -> None:
    for path, methods in routes(state):
        for method in sorted(methods - {"POST"}):
            for content in (b"", b"{", b"\xff\x00"):
                headers = {**JSON, **key(PLAIN)}
                response = await client.request(method, path, content=content, headers=headers)
                assert response.status_code < 500, path
                if response.status_code >= 400 and method != "HEAD":
                    check_error(response, path)


def with_canaries(body: Any) -> list[Any]:
    """`body` again and again, each time with something foreign in place of one part of it."""
    foreign: list[Any] = [CANARY, {CANARY: CANARY}, [CANARY], {"type": CANARY}, -1, None]
    changed: list[Any] = []
    for name, value in body.items():
        if name == "model":
            continue
        changed += [{**body, name: other} for other in foreign]
        if isinstance(value, dict):
            changed += [{**body, name: inner} for inner in with_canaries(value)]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            changed += [{**body, name: [inner, *value[1:]]} for inner in with_canaries(value[0])]
    return changed


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
FULL: dict[str, dict[str, Any]] = {
    **GENERATING,
    "/v1/chat/completions": {
        **GENERATING["/v1/chat/completions"],
        "tools": [TOOL],
        "tool_choice": "auto",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
        "stop": ["x"],
        "stream_options": {"include_usage": True},
        "logit_bias": {"1": 2},
        "metadata": {"a": "b"},
    },
    "/v1/responses": {
        **GENERATING["/v1/responses"],
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
        "text": {"format": {"type": "text"}},
        "reasoning": {"effort": "low"},
        "previous_response_id": None,
    },
    "/v1/messages": {
        **GENERATING["/v1/messages"],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto"},
        "system": [{"type": "text", "text": "Be brief."}],
        "thinking": {"type": "disabled"},
    },
    "/tokenize": {**MODEL, "prompt": "Hello"},
    "/detokenize": {**MODEL, "tokens": [1]},
}


@pytest.mark.parametrize("path", FULL)
async def test_no_error_says_what_was_sent_or_what_we_are_made_of(
    client: httpx.AsyncClient, path: str
) -> None:
    for body in with_canaries(FULL[path]):
        response = await client.post(path, json=body, headers=key(PLAIN))
        assert response.status_code in (200, 400, 404), (body, response.text)
        if response.status_code != 200:
            check_error(response, path)
            error = response.json()["error"]
            # The name of a field or of a kind is told, cut to what a name may have.
            message = error["message"].replace(error.get("param") or "'", "")
            assert CANARY not in message.replace(f" of type {CANARY}", ""), (body, error)


async def test_no_answer_holds_a_key(client: httpx.AsyncClient, state: ServerState) -> None:
    digests = [hashlib.sha256(secret.encode()).hexdigest() for secret in (PLAIN, ROOT)]
    for path, methods in routes(state):
        if "GET" in methods:
            response = await client.get(path, headers=key(ROOT))
            assert not [word for word in (PLAIN, ROOT, *digests) if word in response.text], path


# -- how a path is written, on a real port -----------------------------------------------------

WRITTEN = [
    "/v1/models",
    "/v1/models?/health",
    "/v1/models#/health",
    "/v1/models/",
    "/v1/models/%2e%2e/%2e%2e/health",
    "/v1/models;/health",
    "/%76%31/models",
    "/v1%2fmodels",
    "/v1//models",
    "//v1/models",
    "/./v1/models",
    "/V1/Models",
    "/health/../v1/models",
    "/health/..%2fv1/models",
    "/health%2f..%2fv1%2fmodels",
    "/health/%2e%2e/v1/models",
    "/health/",
    "/health%00/v1/models",
    "/health;/../v1/models",
    "/ui/../v1/models",
    "/ui/%2e%2e/v1/models",
    "/ui/..\\..\\v1\\models",
    "/%2fhealth",
    "http://server/v1/models",
    "http://server/health/../v1/models",
    "/v1/messages/../models",
    "*",
]
HOSTS = ["server", "server/health", "server/health?", "health", "", "server:0", "@/health", "[::1]"]


async def exchange(server: httpx.URL, request: bytes) -> tuple[int, bytes]:
    """Send bytes as they are; return the status and all that came back."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1]), answer


@pytest.mark.parametrize("path", WRITTEN)
async def test_however_a_path_is_written_it_needs_a_key(serve: Serve, path: str) -> None:
    _, client = await serve(**KEYS)
    for host in HOSTS if path == "/v1/models" else HOSTS[:2]:
        head = f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n"
        head += "x-original-url: /health\r\nx-rewrite-url: /health\r\nx-forwarded-prefix: /\r\n"
        status, answer = await exchange(client.base_url, f"{head}\r\n".encode())
        assert status in (400, 401), (host, answer)
        assert b'"object":"list"' not in answer
        status, _ = await exchange(client.base_url, f"{head}x-api-key: {PLAIN}\r\n\r\n".encode())
        assert status in (200, 400, 404)


async def test_a_second_request_on_a_connection_needs_a_key_of_its_own(serve: Serve) -> None:
    _, client = await serve(**KEYS)
    first = f"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-api-key: {PLAIN}\r\n\r\n"
    second = "GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    _, answer = await exchange(client.base_url, (first + second).encode())
    statuses = re.findall(rb"HTTP/1.1 (\d+)", answer)
    assert statuses == [b"200", b"401"]


async def test_a_page_of_an_allowed_origin_asks_first_without_a_key(serve: Serve) -> None:
    _, client = await serve(**KEYS, allowed_origins=("https://ui.example",))
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    for path in ("/v1/chat/completions", "/v1/models", "/sleep"):
        good = await client.options(path, headers={"origin": "https://ui.example", **asks})
        assert good.status_code == 200
        assert good.headers["access-control-allow-origin"] == "https://ui.example"
        other = await client.options(path, headers={"origin": "https://evil.example", **asks})
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers
        # Without its two headers it is no preflight, but a request like any other.
        assert (await client.options(path)).status_code == 401
    assert urlsplit(str(client.base_url)).port


@pytest.mark.parametrize("name", ["", " ", "\t", "a ", "\r\nx: y", "ä", "x" * 5000, "\x00", ","])
async def test_a_field_of_any_name_is_reported_in_a_header_that_can_be_sent(
    serve: Serve, name: str
) -> None:
    _, client = await serve()
    for path in ("/v1/chat/completions", "/tokenize"):
        response = await client.post(path, json={**FULL[path], name: 1})
        assert response.status_code == 200
        told = response.headers["x-windlass-warning"]
        assert told.isprintable()
        assert len(told) < 200
