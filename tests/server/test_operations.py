"""Models, version, probes and metrics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from openai.types import Model
from prometheus_client.parser import text_string_to_metric_families

from windlass import __version__

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {
    "model": "fake-model",
    "messages": [{"role": "user", "content": "Hello"}],
}
LABELS = {"model_name": "fake-model", "engine": "0"}
METRICS_PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


async def samples(client: httpx.AsyncClient) -> dict[tuple[str, frozenset[Any]], float]:
    text = (await client.get("/metrics")).text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(found: dict[Any, float], name: str, **labels: str) -> float:
    return found[name, frozenset({**LABELS, **labels}.items())]


async def test_models_are_listed_and_described(make_client: MakeClient) -> None:
    client = await make_client(names=("org/model", "alias"))
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["org/model", "alias"]
    for model in listed["data"]:
        Model.model_validate(model, strict=True)
        assert model["max_model_len"] == 256
        assert (await client.get(f"/v1/models/{model['id']}")).json() == model


async def test_the_probes_and_the_version_answer(client: httpx.AsyncClient) -> None:
    for path in ("/health", "/ping", "/ready"):
        response = await client.get(path)
        assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert (await client.get("/version")).json() == {"version": __version__}


async def test_readiness_ends_with_draining_and_liveness_goes_on(
    make_client: MakeClient, make_state: Any
) -> None:
    state = make_state()
    client = await make_client(state=state)
    state.draining = True
    for path in ("/ready", "/v1/models"):
        response = await client.get(path)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "shutting_down"
        assert response.headers["connection"] == "close"
        assert "retry-after" in response.headers
    assert (await client.get("/health")).status_code == 200


async def test_a_hanging_engine_is_not_healthy(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.die()
    response = await client.get("/health")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "engine_dead"


async def test_requests_are_counted_and_timed(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await client.post(CHAT, json={**HELLO, "max_tokens": 5})
    await client.post(CHAT, json={**HELLO, "n": 2, "stream": True})
    found = await samples(client)
    prompt_tokens = sum(len(p.prompt_token_ids) for p in engine.submitted)
    answer_tokens = len(engine.tokenizer.encode(engine.answer, add_special_tokens=False)) + 1
    output_tokens = 5 + 2 * answer_tokens
    assert of(found, "vllm:prompt_tokens_total") == prompt_tokens
    assert of(found, "vllm:prompt_tokens_cached_total") == 2
    assert of(found, "vllm:generation_tokens_total") == output_tokens
    assert of(found, "vllm:request_success_total", finished_reason="length") == 1
    assert of(found, "vllm:request_success_total", finished_reason="stop") == 2
    assert of(found, "vllm:request_success_total", finished_reason="abort") == 0
    for name in (
        "vllm:time_to_first_token_seconds",
        "vllm:e2e_request_latency_seconds",
        "vllm:request_time_per_output_token_seconds",
        "vllm:request_prompt_tokens",
        "vllm:request_generation_tokens",
        "vllm:request_params_n",
    ):
        assert of(found, f"{name}_count") == 2
    assert of(found, "vllm:request_params_max_tokens_sum") == 5
    assert of(found, "vllm:request_generation_tokens_sum") == output_tokens
    assert of(found, "vllm:inter_token_latency_seconds_count") > 0
    assert of(found, "vllm:num_requests_running") == 0


async def test_failures_and_rejections_are_counted(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.overload()
    await client.post(CHAT, json=HELLO)
    found = await samples(client)
    assert of(found, "windlass:queue_rejections_total") == 1
    http = {"handler": CHAT, "method": "POST", "status": "503"}
    assert found["http_requests_total", frozenset(http.items())] == 1


async def test_no_label_comes_from_a_client(client: httpx.AsyncClient) -> None:
    for index in range(20):
        await client.request(f"M{index}", f"/path{index}")
        await client.get(f"/v1/models/model{index}")
        await client.post(CHAT, json={**HELLO, "model": f"model{index}", "user": f"user{index}"})
    await samples(client)
    before = len(await samples(client))
    for index in range(20, 40):
        await client.request(f"M{index}", f"/path{index}")
        await client.get(f"/v1/models/model{index}")
    found = await samples(client)
    assert len(found) == before
    handlers = {dict(labels).get("handler") for _, labels in found} - {None}
    assert handlers == {"unknown", "/v1/models/{model:path}", CHAT, "/metrics"}


async def test_every_metric_is_documented_and_nothing_else(client: httpx.AsyncClient) -> None:
    await client.post(CHAT, json=HELLO)
    text = (await client.get("/metrics")).text
    exported = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(text)
    }
    documented = set(re.findall(r"^\| `([a-z0-9_:]+)`", METRICS_PAGE.read_text(), re.MULTILINE))
    assert documented == exported
