"""Files and batches of a real `windlass serve` process, with the `openai` client; also killed."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch

MODEL = "demo"
KEY, OTHER_KEY = "first-key", "second-key"
CHAT = "/v1/chat/completions"


class Server:
    """A `windlass serve` process that keeps its batches in `folder`."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder = folder
        self.log = folder.with_suffix(".log").open("a+")
        command = [sys.executable, "-m", "windlass.cli", "serve", "--port", "0"]
        command += ["--served-model-name", MODEL, "--api-key", KEY, "--api-key", OTHER_KEY]
        command += ["--batch-dir", str(folder), *flags]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        assert self.process.stdout is not None
        for text in self.process.stdout:
            found = re.search(r" at (http://[0-9.:]+)$", text.rstrip())
            if found:
                self.url = found[1]
                return
        raise AssertionError(f"the server did not start:\n{self.said()}")

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()[-4000:]

    def client(self, key: str = KEY) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def answered(self) -> int:
        """Chats that this process has answered with success."""
        text = httpx.get(f"{self.url}/metrics", headers={"x-api-key": KEY}).text
        found = re.search(rf'http_requests_total\{{handler="{CHAT}".*?status="200"\}} (\S+)', text)
        return int(float(found[1])) if found else 0

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()
        return code


def chats(count: int, **body: Any) -> bytes:
    """The input of a batch; answers are long so that it does not end at once."""
    question = [{"role": "user", "content": "Tell me a story."}]
    body = {"model": MODEL, "messages": question, "max_tokens": 20, "ignore_eos": True, **body}
    lines = [
        {"custom_id": str(n), "method": "POST", "url": CHAT, "body": {**body, "seed": n}}
        for n in range(count)
    ]
    return "\n".join(map(json.dumps, lines)).encode()


def start(client: openai.OpenAI, content: bytes) -> Batch:
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"a": "b"}
    )


def wait_for(
    client: openai.OpenAI, batch: Batch, condition: Callable[[Batch], bool], seconds: float = 60
) -> Batch:
    deadline = time.monotonic() + seconds
    while not condition(batch):
        assert time.monotonic() < deadline, batch
        time.sleep(0.02)
        batch = client.batches.retrieve(batch.id)
    return batch


def completed(batch: Batch) -> int:
    assert batch.request_counts is not None
    return batch.request_counts.completed


def is_completed(batch: Batch) -> bool:
    assert batch.status not in ("failed", "expired", "cancelled"), batch
    return batch.status == "completed"


def output(client: openai.OpenAI, batch: Batch) -> list[dict[str, Any]]:
    assert batch.output_file_id is not None
    return [json.loads(text) for text in client.files.content(batch.output_file_id).iter_lines()]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("served") / "batches")
    yield server
    assert server.end(signal.SIGTERM) == 0


def test_the_client_s_whole_way(server: Server) -> None:
    client = server.client()
    batch = start(client, chats(12, max_tokens=4))
    assert batch.status == "validating"
    done = wait_for(client, batch, is_completed)
    Batch.model_validate(done.model_dump(), strict=True)
    results = output(client, done)
    assert [result["custom_id"] for result in results] == [str(n) for n in range(12)]
    assert {result["response"]["status_code"] for result in results} == {200}
    assert done.usage is not None
    assert done.usage.output_tokens == 12 * 4
    assert done.metadata == {"a": "b"}
    files = list(client.files.list(limit=1))  # page by page
    assert {file.purpose for file in files} == {"batch", "batch_output"}
    assert client.files.retrieve(batch.input_file_id).filename == "in.jsonl"
    assert [found.id for found in client.batches.list(limit=1)] == [batch.id]
    assert client.files.delete(batch.input_file_id).deleted


def test_a_batch_answers_as_the_route_does(server: Server) -> None:
    client = server.client()
    (line,) = chats(1, temperature=0, logprobs=True).splitlines()
    done = wait_for(client, start(client, line), is_completed)
    (result,) = output(client, done)
    answer = httpx.post(
        server.url + CHAT, json=json.loads(line)["body"], headers={"x-api-key": KEY}, timeout=60
    )
    offline, online = result["response"]["body"], answer.json()
    assert offline.keys() == online.keys()
    assert offline["choices"] == online["choices"]


def test_another_key_finds_nothing(server: Server) -> None:
    client, other = server.client(), server.client(OTHER_KEY)
    done = wait_for(client, start(client, chats(1)), is_completed)
    assert done.output_file_id is not None
    assert not list(other.files.list())
    assert not list(other.batches.list())
    for ask in (
        lambda: other.batches.retrieve(done.id),
        lambda: other.batches.cancel(done.id),
        lambda: other.files.content(done.output_file_id or ""),
        lambda: other.files.delete(done.input_file_id),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()


def test_a_running_batch_is_cancelled(server: Server) -> None:
    client = server.client()
    batch = start(client, chats(2000, max_tokens=100))
    batch = wait_for(client, batch, lambda batch: completed(batch) > 0)
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = wait_for(client, batch, lambda batch: batch.status == "cancelled")
    assert 0 < completed(batch) < 2000
    assert len(output(client, batch)) == completed(batch)


def test_two_servers_do_not_share_a_folder(server: Server) -> None:
    command = [sys.executable, "-m", "windlass.cli", "serve", "--port", "0", "--batch-dir"]
    command.append(str(server.folder))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "another server uses --batch-dir" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_goes_on_where_another_ended(tmp_path: Path, number: signal.Signals) -> None:
    """Nothing that was stored is run again, nothing is lost, nothing stands in the output twice."""
    flags = ("--batch-concurrency", "3")
    first = Server(tmp_path / "batches", *flags)
    client = first.client()
    batch = start(client, chats(30))
    wait_for(client, batch, lambda batch: completed(batch) >= 5)
    assert first.end(number) == (0 if number == signal.SIGTERM else -number)
    with closing(sqlite3.connect(first.folder / "batches.sqlite3")) as database:
        stored = [json.loads(data) for (data,) in database.execute("SELECT data FROM results")]
        counted = database.execute("SELECT completed FROM batches").fetchone()
    assert 5 <= len(stored) < 30
    assert counted == (len(stored),)

    second = Server(tmp_path / "batches", *flags)
    client = second.client()
    done = wait_for(client, client.batches.retrieve(batch.id), is_completed)
    assert completed(done) == 30
    results = output(client, done)
    assert [result["custom_id"] for result in results] == [str(n) for n in range(30)]
    by_id = {result["id"]: result for result in results}
    assert all(by_id[result["id"]] == result for result in stored)
    assert second.answered() == 30 - len(stored)
    assert second.end(signal.SIGTERM) == 0
