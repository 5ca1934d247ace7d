"""Real API processes on one engine: what clients see of them, and what happens when one dies."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from openai.types.responses import ResponseCompletedEvent, ResponseIncompleteEvent
from serve_process import MODEL, ServeProcess, wait_for

from windlass_server.batches.service import Batches
from windlass_server.batches.settings import BatchSettings

COUNT = 2
ENDS = (ResponseCompletedEvent, ResponseIncompleteEvent)
PROMPTS = [f"Tell me about the harbour, number {number}." for number in range(12)]


class Served(ServeProcess):
    """A server with two API processes."""

    def __init__(self, *flags: str, **more: Any) -> None:
        super().__init__("--api-server-count", str(COUNT), *flags, **more)
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def children(self, module: str) -> list[psutil.Process]:
        """The processes that run a module, from the oldest to the youngest."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in found if module in _command_of(child)]

    @property
    def api_processes(self) -> list[psutil.Process]:
        return self.children("windlass_server.processes.api_process")

    @property
    def engine(self) -> psutil.Process:
        (engine,) = self.children("windlass.executor.engine_process")
        return engine

    def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One call on a connection of its own, which any API process may accept."""
        return httpx.request(method, self.url + path, timeout=60, **more)

    def respond(self, **fields: Any) -> dict[str, Any]:
        body = {"model": MODEL, "input": "Hello", "max_output_tokens": 8, **fields}
        answer = self.call("POST", "/v1/responses", json=body)
        assert answer.status_code == 200, answer.text
        response: dict[str, Any] = answer.json()
        return response

    def respond_in(self, index: int, **fields: Any) -> dict[str, Any]:
        """A response that process `index` made."""
        for _ in range(200):
            response = self.respond(**fields)
            if process_of(response["id"]) == index:
                return response
        raise AssertionError(f"process {index} accepts no connection")

    def stream_in(self, index: int, stack: contextlib.ExitStack) -> Iterator[dict[str, Any]]:
        """The chunks of a long answer that process `index` streams, as long as it runs."""
        body = {"model": MODEL, "max_tokens": 900, "ignore_eos": True, "stream": True, "n": 4}
        body["messages"] = [{"role": "user", "content": "Go on."}]
        for _ in range(200):
            streaming = httpx.stream(
                "POST", f"{self.url}/v1/chat/completions", json=body, timeout=60
            )
            chunks = chunks_of(stack.enter_context(streaming))
            first = next(chunks)
            if process_of(first["id"].replace("-", "_", 1)) == index:
                return chunks
        raise AssertionError(f"process {index} accepts no connection")

    def metric(self, name: str) -> float:
        text = self.call("GET", "/metrics").text
        samples = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, samples))

    def wait_settled(self) -> None:
        """Wait until the engine is idle and every process has counted what came from it."""
        wait_for(self.is_idle)
        name = "vllm:generation_tokens_total"
        wait_for(lambda: len({self.metric(name) for _ in range(10)}) == 1)

    def serves_everywhere(self) -> bool:
        """Whether each API process answers on its own."""
        try:
            found = {process_of(self.respond()["id"]) for _ in range(20)}
        except (AssertionError, httpx.TransportError):
            return False
        return found == set(range(COUNT))

    def is_idle(self) -> bool:
        """Whether the engine holds no sequence and no block."""
        view = self.call("GET", "/windlass/view").json()["engine"]
        stats = view["stats"]
        return not view["sequences"] and stats["num_free_blocks"] == stats["num_blocks"]


def _command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def process_of(name: str) -> int:
    found = re.match(r"[a-z]+_p(\d)_", name)
    assert found, name
    return int(found[1])


def chunks_of(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served("--batch-dir", str(tmp_path_factory.mktemp("batches"))) as server:
        yield server


def answers(url: str) -> list[tuple[str, list[int]]]:
    """Text and tokens of answers to several prompts, asked for at the same time."""

    def ask(prompt: str) -> tuple[str, list[int]]:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
            answer = client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": prompt}],
                max_tokens=24,
                temperature=0.8,
                seed=len(prompt),
                extra_body={"return_token_ids": True},
            )
        choice = answer.choices[0]
        tokens = (choice.model_extra or {})["token_ids"]
        return choice.message.content or "", tokens

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        return list(pool.map(ask, PROMPTS))


def test_two_processes_answer_token_for_token_as_one_does(two: Served) -> None:
    with ServeProcess() as one:
        assert answers(two.url) == answers(one.url)


def test_a_stream_holds_what_the_whole_answer_does(two: Served) -> None:
    asked: Any = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
    whole = two.client.chat.completions.create(**asked, temperature=0)
    for _ in range(4):
        with openai.OpenAI(base_url=f"{two.url}/v1", api_key="none") as client:
            stream = client.chat.completions.create(**asked, temperature=0, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == whole.choices[0].message.content


@pytest.mark.parametrize("index", range(COUNT))
def test_a_response_is_found_wherever_it_is_asked_for(two: Served, index: int) -> None:
    made = two.respond_in(index, instructions="Be brief.")
    path = f"/v1/responses/{made['id']}"
    for _ in range(8):
        assert two.call("GET", path).json() == made
        items = two.call("GET", f"{path}/input_items").json()
        assert items["data"][0]["content"][0]["text"] == "Hello"
    assert two.call("DELETE", path).json()["deleted"] is True
    for _ in range(8):
        missing = two.call("GET", path)
        assert missing.status_code == 404
        assert missing.json()["error"]["code"] == "response_not_found"


@pytest.mark.parametrize("index", range(COUNT))
def test_a_conversation_stays_in_its_process(two: Served, index: int) -> None:
    first = two.respond_in(index)
    for _ in range(8):
        second = two.respond(input="And then?", previous_response_id=first["id"])
        assert process_of(second["id"]) == index
        assert second["previous_response_id"] == first["id"]
        assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]
        item = {"type": "item_reference", "id": second["output"][0]["id"]}
        third = two.respond(input=[item, {"role": "user", "content": "More!"}])
        assert process_of(third["id"]) == index
        counted = two.call(
            "POST",
            "/v1/responses/input_tokens",
            json={"model": MODEL, "input": "And then?", "previous_response_id": first["id"]},
        )
        assert counted.json()["input_tokens"] == second["usage"]["input_tokens"]


@pytest.mark.parametrize("index", range(COUNT))
def test_a_background_response_is_followed_and_cancelled_from_anywhere(
    two: Served, index: int
) -> None:
    long = {"background": True, "max_output_tokens": 900, "ignore_eos": True}
    made = two.respond_in(index, **long)
    with httpx.stream(
        "GET", f"{two.url}/v1/responses/{made['id']}", params={"stream": "true"}, timeout=60
    ) as response:
        kinds = [event["type"] for event in itertools.islice(chunks_of(response), 10)]
    assert kinds[0] == "response.created"
    assert "response.output_text.delta" in kinds
    path = f"/v1/responses/{two.respond_in(index, **long)['id']}"
    assert two.call("POST", f"{path}/cancel").json()["status"] in ("cancelled", "incomplete")
    assert two.call("POST", f"{path}/cancel").status_code == 200
    wait_for(two.is_idle)


def test_openais_client_talks_over_many_connections(two: Served) -> None:
    previous: str | None = None
    for _ in range(6):
        with openai.OpenAI(base_url=f"{two.url}/v1", api_key="none") as client:
            events = client.responses.create(
                model=MODEL,
                input="Hello",
                max_output_tokens=8,
                previous_response_id=previous or openai.omit,
                stream=True,
            )
            response = next(event.response for event in events if isinstance(event, ENDS))
            assert client.responses.retrieve(response.id).output_text == response.output_text
        previous = response.id


def test_ids_of_processes_that_are_not_there_are_not_found(two: Served) -> None:
    for name in ("resp_p7_0123", "resp_p99_0123", "resp_0123"):
        assert two.call("GET", f"/v1/responses/{name}").status_code == 404
        body = {"model": MODEL, "input": "Hello", "previous_response_id": name}
        answer = two.call("POST", "/v1/responses", json=body)
        assert answer.json()["error"]["code"] == "previous_response_not_found"
    broken = two.call(
        "POST",
        "/v1/responses",
        content=b'{"previous_response_id": "resp_p0_',
        headers={"content-type": "application/json"},
    )
    assert broken.status_code == 400
    assert "not valid JSON" in broken.json()["error"]["message"]


def test_metrics_are_the_sum_of_all_processes(two: Served) -> None:
    names = [
        "vllm:time_to_first_token_seconds_count",
        "vllm:request_success_total",
        "vllm:generation_tokens_total",
        "http_requests_total",
    ]
    two.wait_settled()
    before = {name: two.metric(name) for name in names}
    steps = two.metric("windlass:engine_steps_total")
    for index in range(COUNT):
        two.respond_in(index, max_output_tokens=3, ignore_eos=True)
    asked = two.metric("vllm:request_success_total") - before["vllm:request_success_total"]
    assert asked >= COUNT  # those that another process answered count as well
    grown = {name: two.metric(name) - before[name] for name in names}
    looks = 2 * len(names) + 2  # for metrics, since the first one was read
    assert grown["vllm:time_to_first_token_seconds_count"] == asked
    assert grown["vllm:generation_tokens_total"] == 3 * asked
    assert asked <= grown["http_requests_total"] <= asked + looks
    # The engine's own numbers stand once, and are the same from everywhere.
    assert len({two.metric("windlass:engine_steps_total") for _ in range(8)}) == 1
    assert two.metric("windlass:engine_steps_total") > steps
    assert two.metric("vllm:cache_config_info") == 1


def test_a_process_that_does_not_answer_keeps_its_last_counts(two: Served) -> None:
    two.respond_in(1)
    two.wait_settled()
    tokens = two.metric("vllm:generation_tokens_total")
    for _ in range(20):  # so that process 0 has seen them, too
        assert two.metric("vllm:generation_tokens_total") == tokens
    two.api_processes[1].suspend()
    try:
        assert two.metric("vllm:generation_tokens_total") == tokens
        assert two.metric("windlass:unanswered_peers_total") >= 1
        made = two.respond()
        assert process_of(made["id"]) == 0
    finally:
        two.api_processes[1].resume()


def test_the_view_shows_the_requests_of_all_processes(two: Served) -> None:
    with contextlib.ExitStack() as stack:
        streams = [two.stream_in(index, stack) for index in range(COUNT)]
        sequences = two.call("GET", "/windlass/view").json()["engine"]["sequences"]
        names = [sequence["request_id"] for sequence in sequences]
        assert all(next(stream) for stream in streams)
    assert len(names) >= COUNT
    # Process 0 knows the names of its own; others have the ids that they have in the engine.
    assert any(re.fullmatch(r"\d+:\d+-\d", name) for name in names)
    assert not all(re.fullmatch(r"\d+:\d+-\d", name) for name in names)
    wait_for(two.is_idle)


def test_files_and_batches_are_the_same_from_everywhere(two: Served) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    files = []
    for _ in range(6):
        with openai.OpenAI(base_url=f"{two.url}/v1", api_key="none") as client:
            files.append(client.files.create(file=json.dumps(line).encode(), purpose="batch").id)
            assert {file.id for file in client.files.list()} == set(files)
            assert client.files.content(files[0]).json() == line
    made = two.client.batches.create(
        input_file_id=files[0], endpoint="/v1/chat/completions", completion_window="24h"
    )
    wait_for(lambda: two.client.batches.retrieve(made.id).status == "completed")
    for _ in range(6):
        batch = two.call("GET", f"/v1/batches/{made.id}").json()
        assert batch["request_counts"] == {"total": 1, "completed": 1, "failed": 0}


def test_what_one_process_cannot_do_for_all_is_refused(two: Served) -> None:
    answer = two.call("POST", "/sleep")
    assert answer.status_code == 400
    assert "--api-server-count 2" in answer.json()["error"]["message"]


def test_a_process_that_is_killed_is_replaced_and_the_other_goes_on(two: Served) -> None:
    dead = two.api_processes[1]
    with contextlib.ExitStack() as stack:
        kept, lost = ([two.stream_in(index, stack) for _ in range(2)] for index in range(COUNT))
        dead.kill()
        for stream in lost:
            with pytest.raises(httpx.TransportError):
                list(stream)
        for stream in kept:
            reasons = [chunk["choices"][0]["finish_reason"] for chunk in stream]
            assert reasons[-1] == "length"
    wait_for(two.is_idle)
    wait_for(two.serves_everywhere)
    assert dead.pid not in [process.pid for process in two.api_processes]
    assert len(two.api_processes) == COUNT


def test_a_response_whose_process_is_being_replaced_is_a_503(two: Served) -> None:
    made = two.respond_in(1)
    two.api_processes[-1].kill()
    answer = two.call("GET", f"/v1/responses/{made['id']}")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "process_restarting"
    assert answer.headers["retry-after"]
    wait_for(two.serves_everywhere)
    assert two.call("GET", f"/v1/responses/{made['id']}").status_code == 404


def test_all_processes_serve_again_when_the_engine_was_killed(two: Served) -> None:
    engine = two.engine.pid
    with contextlib.ExitStack() as stack:
        streams = [two.stream_in(index, stack) for index in range(COUNT)]
        os.kill(engine, signal.SIGKILL)
        for stream in streams:
            last = list(stream)[-1]
            assert last["error"]["code"] == "engine_failed"
    wait_for(two.serves_everywhere, 60)
    assert two.engine.pid != engine
    assert two.metric("windlass:engine_restarts_total") == 1


def test_an_engine_that_hangs_is_replaced() -> None:
    with Served("--step-timeout", "1") as server:
        server.respond()
        hung = server.engine
        hung.suspend()
        answer = server.call("POST", "/v1/responses", json={"model": MODEL, "input": "Hello"})
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "engine_failed"
        wait_for(server.serves_everywhere, 60)
        assert server.engine.pid != hung.pid
    assert any("The engine hangs" in line for line in server.log)


def test_sigterm_lets_all_processes_finish_what_runs() -> None:
    with Served() as server, contextlib.ExitStack() as stack:
        streams = [server.stream_in(index, stack) for index in range(COUNT)]
        server.process.terminate()
        for stream in streams:
            assert list(stream)[-1]["choices"][0]["finish_reason"] == "length"
        assert server.process.wait(60) == 0


def test_keys_are_read_again_by_all_processes(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text('[[keys]]\nname = "one"\nkey = "old"\n')
    file.chmod(0o600)
    with Served("--api-key-file", str(file)) as server:

        def answered_with(key: str) -> set[int]:
            headers = {"authorization": f"Bearer {key}"}
            calls = [server.call("GET", "/v1/models", headers=headers) for _ in range(20)]
            return {answer.status_code for answer in calls}

        assert (answered_with("old"), answered_with("new")) == ({200}, {401})
        file.write_text('[[keys]]\nname = "one"\nkey = "new"\n')
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: (answered_with("old"), answered_with("new")) == ({401}, {200}))


def test_nothing_is_left_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    server = Served(environment={"TMPDIR": str(tmp_path)})
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert len(children) >= COUNT + 1
    assert list(tmp_path.iterdir()) != []
    server.process.kill()
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert len(gone) == len(children), alive
    wait_for(lambda: not list(tmp_path.iterdir()))
    server.stop()


def test_a_start_that_fails_says_why() -> None:
    with pytest.raises(AssertionError, match="tool_call_parser must be one of"):
        Served("--tool-call-parser", "none")
    with pytest.raises(AssertionError, match="--api-server-count 2 excludes --sleep-after"):
        Served("--sleep-after", "5")


def test_what_an_api_process_cannot_start_with_is_told_in_a_sentence(tmp_path: Path) -> None:
    other = Batches(str(tmp_path), BatchSettings())
    with pytest.raises(AssertionError, match="another server uses --batch-dir") as failed:
        Served("--batch-dir", str(tmp_path))
    assert "Traceback" not in str(failed.value)
    other.close()


def test_a_unix_socket_is_shared_and_removed() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder) / "socket"
        with Served("--uds", str(path)) as server:
            del server
            transport = httpx.HTTPTransport(uds=str(path))
            with httpx.Client(transport=transport, base_url="http://x") as client:
                assert client.get("/ready").status_code == 200
        assert not path.exists()
