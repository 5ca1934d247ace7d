"""The real `openai` client against a real `windlass serve` process with the demo model."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

MODEL = "demo"
KEY = "integration-key"
QUESTION: Any = [{"role": "user", "content": "Hello! Who are you?"}]
GREEDY: dict[str, Any] = {"model": MODEL, "messages": QUESTION, "temperature": 0}


class Server:
    """A `windlass serve` process; `url` once it is ready."""

    def __init__(self, *flags: str) -> None:
        command = [sys.executable, "-m", "windlass.cli", "serve", "--port", "0"]
        named = ["--served-model-name", MODEL, "--api-key", KEY]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            [*command, *named, *flags],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        threading.Thread(target=self._read_log, daemon=True).start()
        self.url = self._wait_for_address()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)

    def _wait_for_address(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found = re.search(r" at (http://[0-9.:]+)$", line.rstrip())
            if found:
                return found[1]
        raise AssertionError("the server did not start:\n" + "".join(self.log))

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(**{"base_url": f"{self.url}/v1", "api_key": KEY, **options})

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, headers={"x-api-key": KEY}, timeout=30)

    def metric(self, name: str) -> float:
        pattern = rf"^{re.escape(name)}(?:\{{[^}}]*\}})? ([0-9.e+-]+)$"
        return sum(float(v) for v in re.findall(pattern, self.get("/metrics").text, re.MULTILINE))

    def stop(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(timeout=60)
        finally:
            self.process.kill()
            for pipe in (self.process.stdout, self.process.stderr):
                if pipe is not None:
                    pipe.close()


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with server.client() as client:
        yield client


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).object == "model"


def test_a_chat_is_answered(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**GREEDY)
    ChatCompletion.model_validate(answer.model_dump(), strict=True)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.total_tokens > answer.usage.prompt_tokens > 0
    assert answer._request_id


def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {**GREEDY, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**options)
    text, logprobs, usage = "", [], None
    stream = client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        ChatCompletionChunk.model_validate(chunk.model_dump(), strict=True)
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            logprobs += (choice.logprobs and choice.logprobs.content) or []
    assert text == whole.choices[0].message.content
    assert whole.choices[0].logprobs is not None
    expected = whole.choices[0].logprobs.content or []
    assert [entry.token for entry in logprobs] == [entry.token for entry in expected]
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_a_repeated_prompt_comes_from_the_cache(client: openai.OpenAI) -> None:
    long: Any = [{"role": "user", "content": "Count from one to ten, please. " * 8}]
    cached = []
    for _ in range(2):
        answer = client.chat.completions.create(model=MODEL, messages=long, max_tokens=1)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        cached.append(answer.usage.prompt_tokens_details.cached_tokens)
    assert cached[1] is not None
    assert cached[1] > 0


def test_the_same_seed_gives_the_same_answers(client: openai.OpenAI) -> None:
    def ask() -> list[str | None]:
        answer = client.chat.completions.create(
            model=MODEL, messages=QUESTION, seed=7, n=3, temperature=1.5
        )
        return [choice.message.content for choice in answer.choices]

    first = ask()
    assert ask() == first
    assert len(set(first)) > 1


def test_completions_echo_and_score_their_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="Windlass is", echo=True, logprobs=1, max_tokens=0
    )
    choice = answer.choices[0]
    assert choice.text == "Windlass is"
    assert choice.logprobs is not None
    values = choice.logprobs.token_logprobs or []
    assert values[0] is None
    assert all(value < 0 for value in values[1:])


def test_completions_stream_for_several_prompts(client: openai.OpenAI) -> None:
    texts = {0: "", 1: ""}
    stream = client.completions.create(
        model=MODEL, prompt=["Hello", "The rope"], temperature=0, max_tokens=8, stream=True
    )
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert all(texts.values())


def test_extra_fields_of_the_sampler_work(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        **GREEDY, max_tokens=40, extra_body={"ignore_eos": True, "min_tokens": 40, "top_k": 5}
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 40
    assert answer.choices[0].finish_reason == "length"


def test_errors_arrive_as_their_classes(server: Server, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(**{**GREEDY, "temperature": 3})
    assert (bad.value.param, bad.value.code) == ("temperature", "invalid_value")
    with pytest.raises(openai.BadRequestError, match="maximum context length is") as long:
        client.completions.create(model=MODEL, prompt="word " * 5000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**{**GREEDY, "model": "other"})
    assert missing.value.code == "model_not_found"
    with (
        server.client(api_key="wrong") as stranger,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        stranger.models.list()
    assert refused.value.code == "invalid_api_key"


def test_leaving_a_stream_stops_its_work(server: Server, client: openai.OpenAI) -> None:
    left = server.metric("windlass:client_disconnects_total")
    stream = client.chat.completions.create(**GREEDY, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    wait_for(lambda: server.metric("windlass:client_disconnects_total") == left + 1)
    wait_for(lambda: server.metric("vllm:num_requests_running") == 0)


def test_sigterm_lets_a_stream_finish_and_exits_with_0() -> None:
    server = Server()
    with server.client(max_retries=0) as client:
        stream = client.chat.completions.create(
            **GREEDY, stream=True, max_tokens=200, extra_body={"ignore_eos": True}
        )
        chunks = iter(stream)
        next(chunks)
        server.process.send_signal(signal.SIGTERM)
        reasons = [c.choices[0].finish_reason for c in chunks]
    assert reasons[-1] == "length"
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("/no/such/model",), "/no/such/model"),
        (("--backend", "no-such-backend"), "no-such-backend"),
        (("--block-size", "0"), "block_size"),
    ],
)
def test_a_failed_start_is_one_line_and_not_0(flags: tuple[str, ...], says: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", "windlass.cli", "serve", "--port", "0", *flags],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    (reason,) = [line for line in done.stderr.splitlines() if line.startswith("windlass: error:")]
    assert says in reason
