"""`windlass run-batch` as a process, from files and URLs to files and URLs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from windlass import demo_model

CHAT = "/v1/chat/completions"


def line(custom_id: str, url: str = CHAT, **body: Any) -> dict[str, Any]:
    question = {"messages": [{"role": "user", "content": "Hello!"}]} if url == CHAT else {}
    body = {"model": demo_model.NAME, "max_tokens": 5, **question, **body}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


LINES: list[dict[str, Any]] = [
    *(line(f"chat-{n}") for n in range(6)),
    line("text", "/v1/completions", prompt="Once"),
    line("hot", temperature=9),
    line("stranger", model="somebody-else"),
    {**line("method"), "method": "GET"},
    line("response", "/v1/responses", input="Hi", max_tokens=None, max_output_tokens=5),
]
STATUS = {"hot": 400, "stranger": 404, "method": None}
INPUT = "\n".join([*map(json.dumps, LINES), "{no json", ""]).encode()


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "windlass.cli", "run-batch", *words]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        command(*words), env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def check_results(content: bytes) -> None:
    """Every line of `LINES` has its result, and the one without an id too."""
    results = {found["custom_id"]: found for found in map(json.loads, content.splitlines())}
    assert set(results) == {*(line["custom_id"] for line in LINES), None}
    for name, result in results.items():
        assert set(result) == {"id", "custom_id", "response", "error"}
        status = STATUS.get(name, 200) if name else None
        if status is None:
            assert result["response"] is None
            assert set(result["error"]) == {"code", "message"}
            continue
        assert result["error"] is None
        assert result["response"]["status_code"] == status
        assert ("error" in result["response"]["body"]) == (status != 200) or name == "response"
    assert results[None]["error"]["code"] == "invalid_json_line"
    assert results["chat-0"]["response"]["body"]["object"] == "chat.completion"
    assert results["text"]["response"]["body"]["object"] == "text_completion"
    assert results["response"]["response"]["body"]["object"] == "response"


def test_every_line_of_a_file_gets_a_result(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(INPUT)
    done = run("-i", str(source), "-o", str(target), "--concurrency", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "12 of 12 requests done, 4 of them failed" in done.stderr
    check_results(target.read_bytes())


class _Store(BaseHTTPRequestHandler):
    """Gives the input under /in, takes results under /out, refuses the rest."""

    received: ClassVar[list[bytes]] = []

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/in" else 404, INPUT)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/out":
            self.received.append(data)
        self._answer(200 if self.path == "/out" else 403, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def store() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Store)
    _Store.received.clear()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_input_and_output_may_be_urls(store: str) -> None:
    name = ("--model", str(demo_model.path()), "--served-model-name", demo_model.NAME)
    done = run("--input-file", f"{store}/in", "--output-file", f"{store}/out", *name)
    assert done.returncode == 0, done.stderr
    (content,) = _Store.received
    check_results(content)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("-i", "{tmp}/none", "-o", "{tmp}/out"), 2, "cannot read"),
        (("-i", "{tmp}/in", "-o", "{tmp}/none/out"), 2, "cannot write"),
        (("-i", "{tmp}/in", "-o", "{tmp}/in"), 2, "must not be the input file"),
        (("-i", "{store}/none", "-o", "{tmp}/out"), 1, "cannot fetch"),
        (("-i", "{tmp}/in", "-o", "{store}/none"), 1, "cannot send"),
        (("-i", "{tmp}/in", "-o", "{tmp}/out", "--concurrency", "0"), 2, "concurrency"),
        (("-i", "{tmp}/in", "-o", "{tmp}/out", "--model", "a", "b"), 2, "name one"),
        (("-i", "{tmp}/in", "-o", "{tmp}/out", "--model", "{tmp}/none"), 1, "none"),
        (("-i", "{tmp}/in"), 2, "--output-file"),
    ],
)
def test_only_a_run_that_fails_ends_with_an_error(
    tmp_path: Path, store: str, words: tuple[str, ...], code: int, text: str
) -> None:
    (tmp_path / "in").write_bytes(json.dumps(LINES[0]).encode())
    done = run(*(word.format(tmp=tmp_path, store=store) for word in words))
    assert (done.returncode, text in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "in").read_bytes()


def test_an_interrupted_run_keeps_its_results_and_leaves_no_process(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [line(str(n), max_tokens=100, ignore_eos=True) for n in range(2000)]
    source.write_text("\n".join(map(json.dumps, lines)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = ("-i", str(source), "-o", str(target), "--concurrency", "2")
    with subprocess.Popen(command(*words), env=environment, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not (target.exists() and target.stat().st_size):
            assert time.monotonic() < deadline, "no result came"
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in said
    assert all(json.loads(text)["error"] is None for text in target.read_text().splitlines())
    gone, alive = psutil.wait_procs(children, timeout=30)
    assert gone
    assert not alive
