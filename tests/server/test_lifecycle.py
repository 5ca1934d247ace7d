"""Start, drain and exit of the whole server."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
from make_settings import make_settings

from windlass.errors import ConfigError, ModelError, WindlassError
from windlass.log_lines import JsonFormatter
from windlass_server import lifecycle as module
from windlass_server.access.settings import AccessSettings
from windlass_server.console import ready_text
from windlass_server.lifecycle import Lifecycle, address_of, listen
from windlass_server.logs import log_stats
from windlass_server.settings import ServerSettings

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine

    Run = Callable[..., Any]

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {
    "model": "fake-model",
    "messages": [{"role": "user", "content": "Hello"}],
}


async def wait_for(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def settings(**change: Any) -> ServerSettings:
    return make_settings(**{"port": 0, **change})


class Running:
    """A server with its client; `done` is the task of its whole life."""

    def __init__(self, start_engine: Any, **change: Any) -> None:
        self.settings = settings(**change)
        self.lifecycle = Lifecycle(self.settings, start_engine)
        sock = listen(self.settings)
        self.client = httpx.AsyncClient(base_url=address_of(self.settings, sock), timeout=30)
        self.done = asyncio.create_task(self.lifecycle.run(sock))

    async def __aenter__(self) -> Running:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        self.lifecycle.signal()
        self.lifecycle.signal()
        await asyncio.gather(self.done, return_exceptions=True)

    async def ready(self) -> None:
        async with asyncio.timeout(10):
            while (await self.client.get("/ready")).status_code != 200:
                await asyncio.sleep(0.01)


@pytest.fixture
def start_engine(engine: FakeEngine) -> Any:
    async def start(progress: Callable[[str, float], None]) -> FakeEngine:
        progress("weights", 0.5)
        return engine

    return start


async def test_the_port_is_open_while_the_model_loads(engine: FakeEngine) -> None:
    loaded = asyncio.Event()

    async def start(_progress: object) -> FakeEngine:
        await loaded.wait()
        return engine

    async with Running(start) as server:
        assert (await server.client.get("/health")).status_code == 200
        assert (await server.client.get("/ready")).status_code == 503
        response = await server.client.post(CHAT, json=HELLO)
        assert response.json()["error"]["code"] == "model_loading"
        loaded.set()
        await server.ready()
        assert (await server.client.post(CHAT, json=HELLO)).status_code == 200


async def test_a_signal_lets_running_requests_finish(engine: FakeEngine, start_engine: Any) -> None:
    async with Running(start_engine) as server:
        await server.ready()
        engine.gate.clear()
        asking = [
            asyncio.create_task(server.client.post(CHAT, json={**HELLO, "stream": stream}))
            for stream in (True, False)
        ]
        await wait_for(lambda: len(engine.running) == 2)
        server.lifecycle.signal()
        refused = await server.client.post(CHAT, json=HELLO)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "shutting_down"
        assert refused.headers["connection"] == "close"
        assert (await server.client.get("/ready")).status_code == 503
        engine.gate.set()
        streamed, whole = await asyncio.gather(*asking)
        assert streamed.text.endswith("data: [DONE]\n\n")
        assert "error" not in streamed.text
        assert whole.json()["choices"][0]["message"]["content"] == engine.answer
        await server.done
    assert engine.was_shut_down
    assert not engine.aborted


@pytest.mark.parametrize("second_signal", [False, True])
async def test_what_does_not_finish_in_time_ends_with_an_error(
    engine: FakeEngine, start_engine: Any, second_signal: bool
) -> None:
    timeout = 60.0 if second_signal else 0.1
    async with Running(start_engine, shutdown_timeout=timeout) as server:
        await server.ready()
        engine.pause_after = 3
        request = server.client.build_request("POST", CHAT, json={**HELLO, "stream": True})
        streaming = await server.client.send(request, stream=True)
        pieces = streaming.aiter_text()
        text = await anext(pieces)
        whole = asyncio.create_task(server.client.post(CHAT, json=HELLO))
        await wait_for(lambda: len(engine.running) == 2)
        server.lifecycle.signal()
        if second_signal:
            server.lifecycle.signal()
        response = await whole
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "shutting_down"
        async for piece in pieces:
            text += piece
        assert '"code":"shutting_down"' in text
        assert text.endswith("data: [DONE]\n\n")
        await server.done
    assert len(engine.aborted) == 2
    assert engine.was_shut_down


async def test_a_signal_while_the_model_loads_ends_at_once() -> None:
    cancelled = asyncio.Event()

    async def start(_progress: object) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with Running(start) as server:
        assert (await server.client.get("/health")).status_code == 200
        server.lifecycle.signal()
        await server.done
    assert cancelled.is_set()


@pytest.mark.parametrize("error", [ModelError("there is no config.json in /x"), KeyError("x")])
async def test_a_failed_load_ends_the_server_with_its_reason(error: Exception) -> None:
    async def start(_progress: object) -> Any:
        raise error

    async with Running(start) as server:
        with pytest.raises(WindlassError, match=r"config.json|could not start: KeyError"):
            await server.done


async def test_a_parser_that_is_not_there_ends_the_server(
    engine: FakeEngine, start_engine: Any
) -> None:
    async with Running(start_engine, tool_call_parser="none") as server:
        with pytest.raises(ConfigError, match="tool_call_parser must be one of"):
            await server.done
    assert engine.was_shut_down


async def test_an_engine_that_stays_dead_ends_the_server(
    engine: FakeEngine, start_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WATCH_INTERVAL", 0.01)
    async with Running(start_engine) as server:
        await server.ready()
        engine.die(retry_after=1.0)
        await asyncio.sleep(0.05)
        assert not server.done.done()
        engine.die(retry_after=None)
        with pytest.raises(WindlassError, match="gives up"):
            await server.done


def test_sigterm_ends_the_process_with_exit_code_0() -> None:
    script = (
        "import asyncio, os, signal, sys\n"
        "from windlass_server.lifecycle import serve\n"
        "from windlass_server.models.settings import ModelSettings\n"
        "from windlass_server.settings import ServerSettings\n"
        "async def start(progress):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    await asyncio.Event().wait()\n"
        "sys.exit(serve(ServerSettings(models=(ModelSettings(names=('m',)),), port=0), start))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, timeout=60, check=False)
    assert done.returncode == 0


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(WindlassError, match=f"cannot listen on 127.0.0.1:{port}: ") as caught:
            listen(settings(port=port))
    assert "\n" not in str(caught.value)
    assert "--port" in str(caught.value)


def test_an_unknown_host_is_one_line() -> None:
    with pytest.raises(WindlassError, match=r"cannot listen on no-such-host\.invalid"):
        listen(settings(host="no-such-host.invalid"))


async def test_a_unix_socket_serves_its_owner_only_and_is_removed(
    start_engine: Any, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    async with Running(start_engine, uds=str(path)) as server:
        assert path.stat().st_mode & 0o777 == 0o600
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            assert (await client.get("/health")).status_code == 200
        with pytest.raises(WindlassError, match="cannot listen on"):
            listen(server.settings)
    assert not path.exists()


async def test_behind_a_root_path_the_same_paths_are_public(start_engine: Any) -> None:
    access = AccessSettings(api_keys=("key",))
    async with Running(start_engine, root_path="/llm", access=access) as server:
        assert (await server.client.get("/health")).status_code == 200
        assert (await server.client.get("/")).status_code == 200
        assert (await server.client.get("/ui/app.js")).status_code == 200
        assert (await server.client.get("/v1/models")).status_code == 401


async def test_the_ready_text_names_address_curl_and_python(engine: FakeEngine) -> None:
    text = ready_text(settings(), engine.info, "http://127.0.0.1:8123")
    assert "The page for people: http://127.0.0.1:8123/\n" in text
    assert "page" not in ready_text(settings(ui=False), engine.info, "http://x")
    assert "curl http://127.0.0.1:8123/v1/chat/completions" in text
    assert 'OpenAI(base_url="http://127.0.0.1:8123/v1", api_key="none")' in text
    rounded = msgspec.structs.replace(engine.info, quantization="int8")
    assert "int8 weights" in ready_text(settings(), rounded, "http://x")
    assert "weights" not in text
    with_key = ready_text(
        settings(access=AccessSettings(api_keys=("secret",))), engine.info, "http://x"
    )
    assert "Authorization: Bearer" in with_key
    assert "secret" not in with_key


async def test_a_server_whose_model_is_not_loaded_at_the_start_says_so_and_serves(
    start_engine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Running(start_engine, preload=False) as server:
        await server.ready()
        assert "fake-model, which is loaded when it is asked for, at" in capsys.readouterr().out
        assert (await server.client.post(CHAT, json=HELLO)).status_code == 200


async def test_a_busy_server_logs_its_throughput_and_an_idle_one_is_quiet(
    make_state: Any, make_client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "windlass_server.logs")
    state = make_state()
    client = await make_client(state=state)
    task = asyncio.create_task(log_stats(state, interval=0.02))
    await asyncio.sleep(0.1)
    assert not caplog.records
    await client.post(CHAT, json=HELLO)
    await wait_for(lambda: len(caplog.records) >= 2)
    # The request may have fallen into several intervals; the first one without work says so.
    await wait_for(lambda: "generation throughput: 0.0 " in caplog.records[-1].getMessage())
    lines = [record.getMessage() for record in caplog.records]
    await asyncio.sleep(0.1)
    task.cancel()
    assert len(caplog.records) == len(lines)
    assert all(line.startswith("Avg prompt throughput: ") for line in lines)
    assert "Avg generation throughput: 0.0 " in lines[-1]
    assert "Running: 0 reqs, Waiting: 0 reqs" in lines[-1]


def test_json_log_lines_are_one_object_each() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    record = logging.LogRecord("x", logging.INFO, "f", 1, "two\nlines %d", (2,), None)
    handler.emit(record)
    (line,) = stream.getvalue().splitlines()
    assert '"message":"two\\nlines 2"' in line
    assert '"level":"info"' in line
