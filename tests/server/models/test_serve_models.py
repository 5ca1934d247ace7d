"""A real server process with two real models and memory for one: swapped, put to sleep, woken."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import psutil
import pytest
from serve_process import ServeProcess

from windlass import demo_model

SHORT = 64


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    path = tmp_path_factory.mktemp("models") / "models.toml"
    path.write_text(
        f'[[models]]\nmodel = "{demo_model.path()}"\nserved_model_name = "long"\n'
        f'[[models]]\nmodel = "{demo_model.path()}"\nserved_model_name = "short"\n'
        f"max_model_len = {SHORT}\n"
    )
    with ServeProcess("--models", str(path)) as server:
        yield server


def engines(server: ServeProcess) -> list[int]:
    children = psutil.Process(server.process.pid).children()
    return [child.pid for child in children if "engine_process" in " ".join(child.cmdline())]


def answer(client: openai.OpenAI, model: str) -> str | None:
    completion = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Hello!"}],
        temperature=0,
        max_tokens=8,
    )
    return completion.choices[0].message.content


def test_models_take_turns_and_one_engine_runs_at_a_time(server: ServeProcess) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=60)
    first = answer(client, "long")
    (before,) = engines(server)
    assert answer(client, "short") == first
    (after,) = engines(server)
    assert before != after
    models = {model.id: model.to_dict() for model in client.models.list()}
    assert models["short"]["max_model_len"] == SHORT
    assert models["long"]["status"] == {"value": "unloaded"}


def test_sleep_ends_the_engine_and_waking_brings_the_same_answers(server: ServeProcess) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=60, max_retries=0)
    before = answer(client, "long")
    assert httpx.post(f"{server.url}/sleep", timeout=60).status_code == 200
    assert engines(server) == []
    with pytest.raises(openai.InternalServerError) as refused:
        answer(client, "long")
    assert (refused.value.status_code, refused.value.code) == (503, "model_sleeping")
    assert httpx.post(f"{server.url}/wake_up", timeout=60).status_code == 200
    assert len(engines(server)) == 1
    assert answer(client, "long") == before
