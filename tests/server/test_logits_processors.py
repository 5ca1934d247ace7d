"""A logits processor that refuses its argument is the client's error, and nobody else's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from serve_process import MODEL, ServeProcess

PLUGIN = """
class Avoid:
    def __init__(self, value, vocab_size):
        if not isinstance(value, int):
            raise ValueError(f"A token is a number, not {type(value).__name__}.")
        self.token = value

    def __call__(self, output_token_ids, logits):
        logits[self.token] = -float("inf")
        return logits
"""
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
    ("/v1/completions", {"prompt": ["Hello", "world"], "n": 2}),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """A server with the plugin `avoid`, installed as a distribution of its own."""
    site = tmp_path_factory.mktemp("site")
    (site / "avoiding.py").write_text(PLUGIN)
    described = site / "avoiding-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: avoiding\nVersion: 1.0\n")
    points = "[windlass.logits_processors]\navoid = avoiding:Avoid\n"
    (described / "entry_points.txt").write_text(points)
    path = os.pathsep.join(filter(None, [*sys.path, str(site)]))
    flags = ("--logits-processors", "avoid")
    with ServeProcess(*flags, environment={"PYTHONPATH": path}) as process:
        yield process


def post(server: ServeProcess, route: str, body: dict[str, Any], **change: Any) -> httpx.Response:
    whole = {"model": MODEL, "max_tokens": 16, "ignore_eos": True, **body, **change}
    return httpx.post(server.url + route, json=whole, timeout=60)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("route", "body"), ROUTES)
@pytest.mark.parametrize("name", ["vllm_xargs", "extra_args"])
def test_a_refused_argument_is_a_400_that_names_the_processor(
    server: ServeProcess, route: str, body: dict[str, Any], stream: bool, name: str
) -> None:
    good = {name: {"avoid": 5}}
    with ThreadPoolExecutor() as pool:
        others = [pool.submit(post, server, route, body, **good) for _ in range(3)]
        refused = post(server, route, body, stream=stream, **{name: {"avoid": "x"}})
        answers = [other.result() for other in others]
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_value")
    assert error["message"] == (
        "The logits processor 'avoid' refuses its argument: A token is a number, not str."
    )
    for answer in answers:
        assert answer.status_code == 200
        assert {choice["finish_reason"] for choice in answer.json()["choices"]} == {"length"}


def test_nothing_of_a_refused_request_is_left_behind(server: ServeProcess) -> None:
    route, body = ROUTES[1]
    assert post(server, route, body, extra_args={"avoid": "x"}).status_code == 400
    metrics = httpx.get(f"{server.url}/metrics").text
    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting"):
        assert f'{name}{{engine="0",model_name="{MODEL}"}} 0.0' in metrics
