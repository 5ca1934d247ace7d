"""Metrics of a real server: what dashboards read, under the names that were chosen."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serve_process import MODEL, ServeProcess

from windlass_server.operations.settings import OperationsSettings

if TYPE_CHECKING:
    from tests.server.conftest import MakeClient

LABELS = {"model_name": MODEL, "engine": "0"}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server() -> Iterator[ServeProcess]:
    with ServeProcess("--access-log") as process:
        yield process


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(server: ServeProcess) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return samples(httpx.get(f"{server.url}/metrics").text)


def value(found: dict[Any, float], name: str, **labels: str) -> float:
    return found[name, frozenset((labels or LABELS).items())]


def ask(server: ServeProcess, **change: Any) -> httpx.Response:
    body = {"model": MODEL, "prompt": "Hello, ropes!", "max_tokens": 9, "ignore_eos": True}
    return httpx.post(f"{server.url}/v1/completions", json={**body, **change}, timeout=60)


def test_times_and_steps_of_a_request_add_up(server: ServeProcess) -> None:
    before = scrape(server)
    usage = ask(server).json()["usage"]
    after = scrape(server)

    def grew(name: str) -> float:
        return value(after, name) - value(before, name)

    seconds = "vllm:request_{}_time_seconds"
    parts = [grew(seconds.format(part) + "_sum") for part in ("prefill", "decode")]
    assert all(part > 0 for part in parts)
    assert sum(parts) == pytest.approx(grew(seconds.format("inference") + "_sum"))
    assert grew(seconds.format("inference") + "_count") == 1
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    computed = usage["prompt_tokens"] - cached
    assert grew("vllm:request_prefill_kv_computed_tokens_sum") == computed
    assert grew("vllm:request_num_preemptions_count") == 1
    # The last token is not computed on; a step that ran ahead may have been.
    tokens = grew("vllm:iteration_tokens_total_sum")
    assert computed + 8 <= tokens <= computed + 10
    assert grew("vllm:iteration_tokens_total_count") == grew("windlass:engine_steps_total")


@pytest.mark.parametrize("stream", [False, True])
def test_bodies_are_measured(server: ServeProcess, stream: bool) -> None:
    route = {"handler": "/v1/completions"}
    names = ("http_request_size_bytes_sum", "http_response_size_bytes_sum")
    before = [value(scrape(server), name, **route) for name in names]
    response = ask(server, stream=stream)
    after = [value(scrape(server), name, **route) for name in names]
    sent, received = (new - old for new, old in zip(after, before, strict=True))
    assert sent == len(response.request.content)
    assert received == len(response.content)


def test_the_number_of_series_does_not_grow_with_what_clients_send(server: ServeProcess) -> None:
    chance = random.Random(7)

    def send(times: int) -> None:
        for _ in range(times):
            word = f"w{chance.randrange(10**9)}"
            ask(server, model=word)
            ask(server, user=word, prompt=word * 3, seed=chance.randrange(10**6), n=3)
            ask(server, max_tokens=chance.randint(1, 9), temperature=chance.random())
            headers = {"x-request-id": word, "authorization": f"Bearer {word}"}
            httpx.get(f"{server.url}/v1/models/{word}", headers=headers)
            httpx.request(word.upper(), f"{server.url}/{word}?{word}={word}", headers=headers)

    send(2)
    scrape(server)
    before = scrape(server).keys()
    send(8)
    assert scrape(server).keys() == before


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("names", "has"), [("vllm", (1, 0)), ("windlass", (0, 1)), ("both", (1, 1))]
)
async def test_the_operator_picks_the_names(
    make_client: MakeClient, names: Any, has: tuple[int, int]
) -> None:
    client = await make_client(operations=OperationsSettings(metrics_names=names))
    await client.post(CHAT, json={"model": "fake-model", "messages": []})
    text = (await client.get("/metrics")).text
    families = [family.name for family in text_string_to_metric_families(text)]
    assert len(families) == len(set(families))
    shared = ("generation_tokens", "time_to_first_token_seconds", "num_requests_running")
    for name in shared:
        assert (families.count(f"vllm:{name}"), families.count(f"windlass:{name}")) == has
    for name in ("windlass:engine_steps", "http_requests", "process_cpu_seconds", "python_info"):
        assert families.count(name) == 1
    found = samples(text)
    if names == "both":
        ours = {key: v for key, v in found.items() if key[0].startswith("vllm:")}
        for (name, labels), number in ours.items():
            assert found["windlass:" + name.removeprefix("vllm:"), labels] == number
