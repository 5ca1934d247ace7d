"""Keys, turns and deadlines of a real `windlass serve` process with a real engine."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from limited_calls import error_of, key
from serve_process import MODEL, ServeProcess, wait_for

TEXT = "/v1/completions"
LONG: dict[str, Any] = {
    "model": MODEL,
    "prompt": "Once upon a time",
    "max_tokens": 60,
    "ignore_eos": True,
}
KEYS = """
[[keys]]
name = "many"
key = "many"

[[keys]]
name = "few"
key = "few"
tokens_per_minute = 1000
requests_per_minute = {requests}

[[keys]]
name = "operator"
key = "operator"
admin = true
"""


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(KEYS.format(requests=2))
    path.chmod(0o644)
    return path


@pytest.fixture(scope="module")
def server(key_file: Path) -> Iterator[ServeProcess]:
    flags = ("--api-key-file", str(key_file), "--max-num-seqs", "2", "--num-blocks", "200")
    running = ServeProcess(*flags, "--request-timeout", "60")
    yield running
    assert running.stop() == 0


def reload(server: ServeProcess, says: str) -> None:
    seen = len(server.log)
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: any(says in line for line in server.log[seen:]))


def post(server: ServeProcess, name: str, **change: Any) -> httpx.Response:
    body = {**LONG, "max_tokens": 5, **change}
    return httpx.post(server.url + TEXT, json=body, headers=key(name), timeout=60)


def test_a_key_file_that_others_may_read_is_warned_of(server: ServeProcess) -> None:
    assert any("chmod 600" in line for line in server.log)


def test_limits_of_the_file_hold_and_a_reload_changes_them(
    server: ServeProcess, key_file: Path
) -> None:
    answers = [post(server, "few") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    used = answers[0].json()["usage"]["total_tokens"]
    left = [int(answer.headers["x-ratelimit-remaining-tokens"]) for answer in answers[:2]]
    # A real clock fills the bucket meanwhile.
    assert 0 <= left[1] + used - left[0] <= 1000
    assert int(answers[2].headers["retry-after"]) >= 1
    key_file.write_text(KEYS.format(requests="lots"))
    reload(server, "The keys stay as they were")
    assert post(server, "few").status_code == 429
    key_file.write_text(KEYS.format(requests=100))
    reload(server, "The key file was read again: 3 keys")
    assert post(server, "few").status_code == 200


def test_a_flood_of_one_key_does_not_hold_up_another(server: ServeProcess) -> None:
    async def both() -> tuple[httpx.Response, int, list[int]]:
        timeout = httpx.Timeout(120)
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=timeout, limits=limits) as client:
            flood = [
                asyncio.create_task(client.post(TEXT, json=LONG, headers=key("many")))
                for _ in range(30)
            ]
            while not any(task.done() for task in flood):
                await asyncio.sleep(0.005)
            late = await client.post(TEXT, json={**LONG, "max_tokens": 5}, headers=key("few"))
            ended = sum(task.done() for task in flood)
            return late, ended, [(await task).status_code for task in flood]

    late, ended, statuses = asyncio.run(both())
    assert late.status_code == 200
    assert ended < 15
    assert statuses == [200] * 30


def test_a_deadline_ends_the_work_of_the_engine(server: ServeProcess) -> None:
    response = post(server, "many", max_tokens=5000, ignore_eos=True, timeout=0.2)
    assert response.status_code == 504
    assert error_of(response)["code"] == "deadline_exceeded"

    def metrics() -> list[str]:
        answer = httpx.get(server.url + "/metrics", headers=key("many"), timeout=30)
        return answer.text.splitlines()

    idle = f'vllm:num_requests_running{{engine="0",model_name="{MODEL}"}} 0.0'
    wait_for(lambda: idle in metrics())
    passed = 'windlass:deadlines_passed_total{deadline="request",'
    assert [line[-4:] for line in metrics() if line.startswith(passed)] == [" 1.0"]


def test_operators_look_and_others_are_told_what_they_lack(server: ServeProcess) -> None:
    view = server.url + "/windlass/view"
    assert httpx.get(view, headers=key("operator"), timeout=30).status_code == 200
    refused = httpx.get(view, headers=key("many"), timeout=30)
    assert refused.status_code == 403
    assert "--admin-api-key" in error_of(refused)["message"]
