"""`/load`, `/server_info`, and routes of what is not there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import openai
import pytest

from windlass import __version__
from windlass_server.operations.settings import OperationsSettings
from windlass_server.operations.tls import TlsSettings

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient, Serve

pytestmark = pytest.mark.anyio

HELLO: dict[str, Any] = {"model": "fake-model", "prompt": "Hello"}


async def test_the_load_is_what_runs_now(make_client: MakeClient, engine: FakeEngine) -> None:
    client = await make_client()
    engine.pause_after = 1
    asking = asyncio.create_task(client.post("/v1/completions", json=HELLO))
    await engine.wait_paused()
    busy = (await client.get("/load")).json()
    engine.gate.set()
    await asking
    idle = (await client.get("/load")).json()
    one = {
        "model": "fake-model",
        "status": "loaded",
        "num_running_reqs": 1,
        "num_waiting_reqs": 0,
        "num_waiting_tokens": 0,
        "kv_cache_usage": 0.0,
    }
    assert busy == {
        "server_load": 1,
        "num_reqs": 1,
        "num_running_reqs": 1,
        "num_waiting_reqs": 0,
        "kv_cache_usage": 0.0,
        "models": [one],
    }
    assert (idle["server_load"], idle["num_running_reqs"]) == (0, 0)


async def test_what_runs_here_is_told_without_secrets(
    make_client: MakeClient, engine: FakeEngine
) -> None:
    tls = TlsSettings(certfile="cert.pem", keyfile="key.pem")
    client = await make_client(
        api_keys=("secret-one",), operations=OperationsSettings(tls=tls), port=8123
    )
    response = await client.get("/server_info", headers={"x-api-key": "secret-one"})
    info = response.json()
    assert "secret-one" not in response.text
    assert info["version"] == __version__
    assert info["packages"]["torch"]
    assert info["settings"]["port"] == 8123
    assert info["settings"]["operations"]["tls"]["certfile"] == "cert.pem"
    (model,) = info["models"]
    assert (model["model"], model["status"], model["restarts"]) == ("fake-model", "loaded", 0)
    facts = engine.info
    for name in ("backend", "device", "num_blocks", "block_size", "kv_cache_bytes"):
        assert model["engine"][name] == getattr(facts, name)


@pytest.mark.parametrize("path", ["/load", "/server_info"])
async def test_both_answer_while_the_model_loads(
    make_client: MakeClient, make_state: Any, path: str
) -> None:
    client = await make_client(state=make_state(loaded=False))
    (model,) = (await client.get(path)).json()["models"]
    assert model["status"] == "unloaded"


@pytest.mark.parametrize("action", ["load", "unload"])
async def test_lora_adapters_are_refused_clearly(serve: Serve, action: str) -> None:
    _, http = await serve()
    path = f"/{action}_lora_adapter"
    async with openai.AsyncOpenAI(base_url=f"{http.base_url}/v1", api_key="x") as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.post(path, body={"lora_name": "x", "lora_path": "/x"}, cast_to=object)
    assert caught.value.status_code == 501
    assert caught.value.code == "not_implemented"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert "LoRA adapters are not supported" in caught.value.message
