"""Lines about requests: one each, of known facts, without what people write."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest
from serve_process import MODEL, ServeProcess

from windlass.errors import ConfigError, RequestFailedError
from windlass.log_lines import JsonFormatter, TextFormatter
from windlass_server.operations.request_log import LogSettings
from windlass_server.operations.settings import OperationsSettings

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
NASTY = "x\n2026 INFO forged\r\x1b[31m\u2028\x85\x00\"'}{"
HELLO: dict[str, Any] = {
    "model": "fake-model",
    "messages": [{"role": "user", "content": "Hello"}],
}


def fields(caplog: pytest.LogCaptureFixture, name: str = "access") -> list[dict[str, Any]]:
    """What the JSON lines of one logger say."""
    formatter = JsonFormatter()
    lines = [formatter.format(r) for r in caplog.records if r.name == f"windlass_server.{name}"]
    assert all(len(line.splitlines()) == 1 and line.isprintable() for line in lines)
    return [json.loads(line) for line in lines]


@pytest.fixture(autouse=True)
def all_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_line_has_the_facts_of_its_request(
    make_client: MakeClient, engine: FakeEngine, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    client = await make_client(access_log=True)
    body = {**HELLO, "max_tokens": 5, "n": 2, "stream": stream}
    await client.post(CHAT, json=body, headers={"x-request-id": "id1"})
    (line,) = fields(caplog)
    assert line.pop("seconds") >= 0
    del line["time"]
    assert line == {
        "level": "info",
        "logger": "windlass_server.access",
        "request_id": "id1",
        "method": "POST",
        "route": CHAT,
        "status": 200,
        "model": "fake-model",
        "prompt_tokens": len(engine.submitted[0].prompt_token_ids),
        "completion_tokens": 10,
    }


async def test_nothing_of_a_client_is_in_a_line(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    client = await make_client(access_log=True)
    await client.get("/v1/models/forged%1B")
    await client.request("FORGED", "/nowhere/" + quote(NASTY), headers={"x-request-id": "a b"})
    await client.post(CHAT, json={**HELLO, "model": NASTY, "user": NASTY})
    found, unknown, refused = fields(caplog)
    assert (found["route"], found["status"]) == ("/v1/models/{model:path}", 404)
    assert (unknown["route"], unknown["method"]) == ("unknown", "OTHER")
    assert refused["error"] == "model_not_found"
    assert "forged" not in json.dumps([found, unknown, refused]).lower()


async def test_a_key_shows_as_its_name_only(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    client = await make_client(access_log=True, api_keys=("secret-key",))
    await client.get("/v1/models", headers={"authorization": "Bearer secret-key"})
    await client.get("/v1/models", headers={"authorization": "Bearer wrong-key"})
    known, refused = fields(caplog)
    assert known["key"]
    assert refused["error"] == "invalid_api_key"
    assert "key" not in refused
    assert "secret-key" not in caplog.text
    assert "wrong-key" not in caplog.text


async def test_errors_within_a_stream_are_in_its_line(
    make_client: MakeClient, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    client = await make_client(access_log=True)
    engine.pause_after = 3
    asking = asyncio.create_task(client.post(CHAT, json={**HELLO, "stream": True}))
    await engine.wait_paused()
    engine.fail(next(iter(engine.running)), RequestFailedError("no"))
    assert (await asking).status_code == 200
    (line,) = fields(caplog)
    assert (line["status"], line["error"]) == (200, "request_failed")
    assert line["completion_tokens"] == 3


async def test_quiet_paths_have_no_line(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    log = LogSettings(quiet_paths=frozenset({"/health", "/metrics"}))
    client = await make_client(access_log=True, operations=OperationsSettings(log=log))
    for path in ("/health", "/metrics", "/ready"):
        await client.get(path)
    assert [line["route"] for line in fields(caplog)] == ["/ready"]


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="a path starts with '/', not 'health'"):
        LogSettings(quiet_paths=frozenset({"health"}))
    with pytest.raises(ConfigError, match="--log-request-bytes must be at least 0, not -1"):
        LogSettings(request_bytes=-1)


@pytest.mark.parametrize("size", [0, 20])
async def test_what_a_request_asks_for_is_told_without_its_texts(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    log = LogSettings(requests=True, request_bytes=size)
    client = await make_client(operations=OperationsSettings(log=log))
    asked = {"temperature": 0.5, "max_tokens": 3, "stop": ["secret"], "seed": None, "unknown": 1}
    await client.post(CHAT, json={**HELLO, **asked})
    await client.post("/v1/completions", json={"model": "fake-model", "prompt": "private"})
    chat, completion = fields(caplog, "requests")
    assert json.loads(chat["parameters"]) == {
        "max_tokens": 3,
        "messages": "1 entries",
        "model": "10 characters",
        "seed": None,
        "stop": "1 entries",
        "temperature": 0.5,
    }
    assert completion["route"] == "/v1/completions"
    assert ("secret" in caplog.text) is ("private" in caplog.text) is False
    if size:
        assert chat["body"] == json.dumps(HELLO, separators=(",", ":"))[:size]
    else:
        assert "body" not in chat


async def test_parameters_are_cut(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    operations = OperationsSettings(log=LogSettings(requests=True))
    client = await make_client(operations=operations)
    numbers = {name: 10**15 for name in ("seed", "top_k", "max_tokens")}
    await client.post(CHAT, json={**HELLO, **numbers})
    (line,) = fields(caplog, "requests")
    assert len(line["parameters"]) <= 1024


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_message_cannot_forge_a_line(formatter: logging.Formatter) -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "told: %s", (NASTY,), None)
    line = formatter.format(record)
    assert line.isprintable()
    assert len(line.splitlines()) == 1
    if isinstance(formatter, JsonFormatter):
        assert json.loads(line)["message"] == f"told: {NASTY}"


def test_a_server_writes_json_lines() -> None:
    flags = ["--log-format", "json", "--access-log", "--log-request-bytes", "4"]
    flags += ["--disable-access-log-for-endpoints", "/health, /metrics"]
    with ServeProcess(*flags) as server:
        for path in ("/health", "/metrics", "/no%0Awhere"):
            httpx.get(server.url + path)
        body = {"model": MODEL, "prompt": "Hello", "max_tokens": 3}
        httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
    lines = [json.loads(line) for line in server.log]  # the engine process writes to it as well
    assert any(line["logger"] == "windlass.loader.load" for line in lines)
    access = [line for line in lines if line["logger"] == "windlass_server.access"]
    assert [(line["route"], line["status"]) for line in access] == [
        ("unknown", 404),
        ("/v1/completions", 200),
    ]
    assert access[1]["completion_tokens"] == 3
    (asked,) = [line for line in lines if line["logger"] == "windlass_server.requests"]
    assert asked["body"] == '{"mo'
    assert asked["request_id"] == access[1]["request_id"]
