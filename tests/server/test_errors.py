"""The error contract, row by row: status, code, param, and OpenAI's shape everywhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from windlass_server.body import MAX_DEPTH

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HELLO: dict[str, Any] = {
    "model": "fake-model",
    "messages": [{"role": "user", "content": "Hello"}],
}
PROMPT: dict[str, Any] = {"model": "fake-model", "prompt": "Hello"}
JSON = {"content-type": "application/json"}


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error object after checking its shape."""
    body = response.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert response.headers["x-request-id"]
    result: dict[str, Any] = error
    return result


@pytest.mark.parametrize("route", [CHAT, TEXT])
@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b"   ", "empty"),
        (b"{", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"model": "\xff"}', "UTF-8"),
        (b'{"temperature": NaN}', "not valid JSON"),
        (b'{"temperature": Infinity}', "not valid JSON"),
        (b'{"temperature": 1e999}', "not valid JSON"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"model": "\\ud800"}', "not valid JSON"),
        (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", "nested deeper"),
        (b'{"a": ' + b"[" * 100_000, "nested deeper"),
    ],
)
async def test_a_body_that_is_no_json_object_is_a_400(
    client: httpx.AsyncClient, route: str, body: bytes, says: str
) -> None:
    response = await client.post(route, content=body, headers=JSON)
    assert response.status_code == 400
    error = error_of(response)
    assert says in error["message"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, None)


async def test_depth_is_accepted_at_the_limit_and_refused_above(client: httpx.AsyncClient) -> None:
    def nested(depth: int) -> dict[str, Any]:
        value: Any = "x"
        for _ in range(depth - 1):
            value = [value]
        return {**HELLO, "metadata": value}

    assert (await client.post(CHAT, json=nested(MAX_DEPTH))).status_code == 200
    assert (await client.post(CHAT, json=nested(MAX_DEPTH + 1))).status_code == 400


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
async def test_another_content_type_is_a_415(
    client: httpx.AsyncClient, content_type: str | None
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = await client.post(CHAT, content=json.dumps(HELLO), headers=headers)
    assert response.status_code == 415
    error_of(response)


async def test_a_compressed_body_is_a_415(client: httpx.AsyncClient) -> None:
    headers = {**JSON, "content-encoding": "gzip"}
    response = await client.post(CHAT, content=b"\x1f\x8b", headers=headers)
    assert response.status_code == 415
    error_of(response)


MISSING, TYPE, VALUE = "missing_required_parameter", "invalid_type", "invalid_value"
UNSUPPORTED = "unsupported_parameter"

TOOL: dict[str, Any] = {"type": "function", "function": {"name": "haul"}}

CHAT_FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"model": ...}, "model", MISSING),
    ({"model": 3}, "model", TYPE),
    ({"messages": ...}, "messages", MISSING),
    ({"messages": "Hello"}, "messages", TYPE),
    ({"messages": []}, "messages", VALUE),
    ({"messages": ["Hello"]}, "messages[0]", TYPE),
    ({"messages": [{"content": "x"}]}, "messages[0].role", MISSING),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", VALUE),
    ({"messages": [{"role": "user"}]}, "messages[0].content", MISSING),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", TYPE),
    ({"messages": [{"role": "user", "content": [3]}]}, "messages[0].content[0]", TYPE),
    ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type", MISSING),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
        MISSING,
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "smell", "text": "x"}]}]},
        "messages[0].content[0].type",
        VALUE,
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0]",
        UNSUPPORTED,
    ),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", MISSING),
    ({"max_completion_tokens": 0}, "max_completion_tokens", VALUE),
    ({"max_tokens": -1}, "max_tokens", VALUE),
    ({"logprobs": 3}, "logprobs", TYPE),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", VALUE),
    ({"logprobs": True, "top_logprobs": -1}, "top_logprobs", VALUE),
    ({"top_logprobs": 2}, "top_logprobs", VALUE),
    ({"tools": []}, "tools", VALUE),
    ({"tools": [{"type": "function"}]}, "tools[0].function", MISSING),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", UNSUPPORTED),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", MISSING),
    ({"tools": [{**TOOL, "function": {"name": "a b"}}]}, "tools[0].function.name", VALUE),
    ({"tools": [TOOL, TOOL]}, "tools[1]", VALUE),
    ({"tool_choice": "required"}, "tool_choice", VALUE),
    ({"tools": [TOOL], "tool_choice": "some"}, "tool_choice", VALUE),
    ({"tools": [TOOL], "tool_choice": {"type": "custom"}}, "tool_choice.type", UNSUPPORTED),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}},
        "tool_choice.function.name",
        VALUE,
    ),
    (
        {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}},
        "tool_choice.allowed_tools.mode",
        VALUE,
    ),
    ({"thinking_token_budget": -1}, "thinking_token_budget", VALUE),
    ({"service_tier": "gold"}, "service_tier", VALUE),
    ({"return_tokens_as_token_ids": True}, "return_tokens_as_token_ids", VALUE),
    ({"functions": [{"name": "f"}]}, "functions", UNSUPPORTED),
    ({"modalities": ["text", "audio"]}, "modalities", UNSUPPORTED),
    ({"audio": {"voice": "x"}}, "audio", UNSUPPORTED),
    ({"web_search_options": {}}, "web_search_options", UNSUPPORTED),
    ({"chat_template": "{{ messages }}"}, "chat_template", UNSUPPORTED),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", VALUE),
    (
        {"continue_final_message": True, "add_generation_prompt": True},
        "continue_final_message",
        VALUE,
    ),
    ({"stream": True, "prompt_logprobs": 1}, "prompt_logprobs", UNSUPPORTED),
]

SHARED_FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": 3}, "temperature", VALUE),
    ({"temperature": "hot"}, "temperature", TYPE),
    ({"temperature": True}, "temperature", TYPE),
    ({"top_p": 0}, "top_p", VALUE),
    ({"top_p": 1.1}, "top_p", VALUE),
    ({"top_k": -2}, "top_k", VALUE),
    ({"top_k": 1.5}, "top_k", TYPE),
    ({"top_k": 2**63}, "top_k", VALUE),
    ({"min_p": 2}, "min_p", VALUE),
    ({"n": 0}, "n", VALUE),
    ({"n": 129}, "n", VALUE),
    ({"n": "2"}, "n", TYPE),
    ({"seed": 2**63}, "seed", VALUE),
    ({"presence_penalty": 2.1}, "presence_penalty", VALUE),
    ({"frequency_penalty": -2.1}, "frequency_penalty", VALUE),
    ({"repetition_penalty": 0}, "repetition_penalty", VALUE),
    ({"stop": 3}, "stop", TYPE),
    ({"stop": [3]}, "stop[0]", TYPE),
    ({"stop": [""]}, "stop", VALUE),
    ({"stop": ["x"] * 17}, "stop", VALUE),
    ({"stop": "x" * 1025}, "stop", VALUE),
    ({"stop_token_ids": [-1]}, "stop_token_ids", VALUE),
    ({"stop_token_ids": [10**6]}, "stop_token_ids", VALUE),
    ({"max_tokens": 0}, "max_tokens", VALUE),
    ({"max_tokens": "many"}, "max_tokens", TYPE),
    ({"min_tokens": 20, "max_tokens": 10}, "min_tokens", VALUE),
    ({"logit_bias": {"5": 101}}, "logit_bias", VALUE),
    ({"logit_bias": {"five": 1}}, "logit_bias", VALUE),
    ({"logit_bias": {"-5": 1}}, "logit_bias", VALUE),
    ({"logit_bias": {"1000000": 1}}, "logit_bias", VALUE),
    ({"logit_bias": [1]}, "logit_bias", TYPE),
    ({"stream": "yes"}, "stream", TYPE),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", TYPE),
    ({"cache_salt": ""}, "cache_salt", VALUE),
    ({"cache_salt": "x" * 1025}, "cache_salt", VALUE),
    ({"priority": 1}, "priority", UNSUPPORTED),
    ({"response_format": {"type": "xml"}}, "response_format.type", VALUE),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", MISSING),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
        "response_format.json_schema.name",
        VALUE,
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        "response_format.json_schema.schema",
        MISSING,
    ),
    ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex", VALUE),
    ({"structured_outputs": {}}, "structured_outputs", VALUE),
    ({"structured_outputs": {"regex": "a", "grammar": "b"}}, "structured_outputs", VALUE),
    ({"guided_json": 3}, "guided_json", TYPE),
    ({"guided_choice": "yes"}, "guided_choice", TYPE),
    ({"allowed_token_ids": []}, "allowed_token_ids", VALUE),
    ({"allowed_token_ids": [-1]}, "allowed_token_ids", VALUE),
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", VALUE),
    ({"extra_args": []}, "extra_args", TYPE),
    ({"suffix": "x"}, "suffix", UNSUPPORTED),
    ({"best_of": 4}, "best_of", UNSUPPORTED),
    ({"bad_words": [""]}, "bad_words", VALUE),
    ({"bad_words": ["x"] * 129}, "bad_words", VALUE),
    ({"bad_words": ["x"], "guided_regex": "a"}, "bad_words", VALUE),
]

TEXT_FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": ...}, "prompt", MISSING),
    ({"prompt": 3}, "prompt", TYPE),
    ({"prompt": {"a": 1}}, "prompt", TYPE),
    ({"prompt": ""}, "prompt", VALUE),
    ({"prompt": []}, "prompt", VALUE),
    ({"prompt": [[]]}, "prompt[0]", VALUE),
    ({"prompt": ["a", 3]}, "prompt[1]", TYPE),
    ({"prompt": [1, "a"]}, "prompt[1]", TYPE),
    ({"prompt": [1, 10**6]}, "prompt", VALUE),
    ({"prompt": [-1]}, "prompt", VALUE),
    ({"prompt": [None]}, "prompt", TYPE),
    ({"prompt": ["a"] * 1025}, "prompt", VALUE),
    ({"prompt": ["a"] * 513, "n": 2}, "prompt", VALUE),
    ({"logprobs": 21}, "logprobs", VALUE),
    ({"logprobs": True}, "logprobs", TYPE),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("route", "good", "change", "param", "code"),
    [(CHAT, HELLO, *row) for row in CHAT_FAULTS + SHARED_FAULTS]
    + [(TEXT, PROMPT, *row) for row in TEXT_FAULTS + SHARED_FAULTS],
)
async def test_a_fault_is_a_400_that_names_the_field(
    client: httpx.AsyncClient,
    engine: FakeEngine,
    route: str,
    good: dict[str, Any],
    change: dict[str, Any],
    param: str,
    code: str,
    stream: bool,
) -> None:
    merged = {**good, "stream": stream, **change}
    body = {name: value for name, value in merged.items() if value is not ...}
    response = await client.post(route, json=body)
    assert response.status_code == 400
    error = error_of(response)
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) <= 1024
    for leak in ("pydantic", "windlass", "Traceback", "class ", "/"):
        assert leak not in error["message"]
    assert not engine.running


@pytest.mark.parametrize(
    "change",
    [
        {"n": 2, "temperature": 0},
        {"seed": 2**63 - 1},
        {"seed": -(2**63)},
        {"top_k": 20.0},
        {"top_k": -1},
        {"stop": ["x" * 1024] * 16},
        {"stop": None},
        {"cache_salt": "x" * 1024},
        {"max_tokens": 10**9},
        {"logit_bias": {"5": -100}},
        {"response_format": {"type": "text"}},
        {"service_tier": "auto"},
        {"metadata": {"a": "b"}},
        {"user": "someone"},
        {"guided_json": None},
        {"best_of": 1},
        {"suffix": None},
    ],
)
@pytest.mark.parametrize(("route", "good"), [(CHAT, HELLO), (TEXT, PROMPT)])
async def test_values_at_the_limit_are_accepted(
    client: httpx.AsyncClient, route: str, good: dict[str, Any], change: dict[str, Any]
) -> None:
    response = await client.post(route, json={**good, **change})
    assert response.status_code == 200, response.text
    assert "x-windlass-warning" not in response.headers


async def test_tools_with_choice_none_are_accepted(client: httpx.AsyncClient) -> None:
    body = {**HELLO, "tools": [TOOL], "tool_choice": "none"}
    assert (await client.post(CHAT, json=body)).status_code == 200


async def test_many_faults_give_few_short_sentences(client: httpx.AsyncClient) -> None:
    body = {
        "model": "fake-model",
        "prompt": [1] + ["x" * 10_000] * 5000,
        **{name: "x" * 10_000 for name in ("n", "seed", "top_k", "top_p", "min_p", "logprobs")},
    }
    error = error_of(await client.post(TEXT, json=body))
    assert len(error["message"]) <= 1024
    assert "xxx" not in error["message"]


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        (CHAT, {**HELLO, "messages": [{"role": "user", "content": "word " * 300}]}, "messages"),
        (CHAT, {**HELLO, "messages": [{"role": "user", "content": "w" * 10**6}]}, "messages"),
        (TEXT, {**PROMPT, "prompt": "word " * 300}, "prompt"),
        (TEXT, {**PROMPT, "prompt": [5] * 256}, "prompt"),
    ],
)
async def test_a_prompt_over_the_context_says_so_in_words_that_clients_know(
    client: httpx.AsyncClient, route: str, body: dict[str, Any], param: str
) -> None:
    response = await client.post(route, json=body)
    assert response.status_code == 400
    error = error_of(response)
    assert (error["param"], error["code"]) == (param, "context_length_exceeded")
    assert error["message"].startswith("This model's maximum context length is 256 tokens. However")


async def test_an_unknown_model_is_a_404(client: httpx.AsyncClient) -> None:
    for response in (
        await client.post(CHAT, json={**HELLO, "model": "other" * 1000}),
        await client.post(TEXT, json={**PROMPT, "model": "other"}),
        await client.get("/v1/models/other/name"),
    ):
        assert response.status_code == 404
        error = error_of(response)
        assert (error["param"], error["code"]) == ("model", "model_not_found")
        assert len(error["message"]) < 400


@pytest.mark.parametrize("path", ["/v1", "/v1/nothing", "/v1/models/", "/docs", "/health/"])
async def test_an_unknown_url_is_a_404(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == 404
    assert error_of(response)["code"] in ("unknown_url", "model_not_found")


@pytest.mark.parametrize(("method", "path"), [("GET", CHAT), ("DELETE", TEXT), ("POST", "/health")])
async def test_another_method_is_a_405_that_lists_what_is_allowed(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    response = await client.request(method, path)
    assert response.status_code == 405
    assert error_of(response)["code"] == "method_not_allowed"
    assert response.headers["allow"] == ("GET" if path == "/health" else "POST")


@pytest.mark.parametrize("route", [CHAT, TEXT])
async def test_unknown_parameters_are_reported_in_a_header(
    client: httpx.AsyncClient, route: str
) -> None:
    good = HELLO if route == CHAT else PROMPT
    odd = {"temprature": 1, "evil\r\nset-cookie: x": 2, "stream_options": {"nope": 1}}
    response = await client.post(route, json={**good, **odd})
    assert response.status_code == 200
    warning = response.headers["x-windlass-warning"]
    assert "temprature" in warning
    assert "evil??set-cookie" in warning
    assert "stream_options.nope" in warning
    assert "set-cookie" not in response.headers


async def test_unknown_parameters_of_a_message_are_reported(client: httpx.AsyncClient) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "x", "size": 1}], "mood": "?"}
    response = await client.post(CHAT, json={**HELLO, "messages": [message]})
    warning = response.headers["x-windlass-warning"]
    assert "messages[0].mood" in warning
    assert "messages[0].content[0].size" in warning


async def test_strict_params_refuse_what_is_unknown(make_client: MakeClient) -> None:
    client = await make_client(strict_params=True)
    response = await client.post(CHAT, json={**HELLO, "temprature": 1})
    assert response.status_code == 400
    error = error_of(response)
    assert (error["param"], error["code"]) == ("temprature", "unknown_parameter")
    assert (await client.post(CHAT, json=HELLO)).status_code == 200


async def test_a_full_queue_is_a_503_with_retry_after(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.overload()
    for stream in (False, True):
        response = await client.post(CHAT, json={**HELLO, "stream": stream})
        assert response.status_code == 503
        error = error_of(response)
        assert (error["type"], error["code"]) == ("overloaded_error", "server_overloaded")
        assert response.headers["retry-after"] == "3"
        assert response.headers["retry-after-ms"] == "2500"


async def test_when_a_later_prompt_is_refused_the_earlier_ones_are_aborted(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.gate.clear()
    response = await client.post(TEXT, json={**PROMPT, "prompt": ["fine", "word " * 300]})
    assert response.status_code == 400
    assert len(engine.aborted) == 1
    assert not engine.running


async def test_while_loading_the_api_says_503_and_liveness_200(make_client: MakeClient) -> None:
    client = await make_client(loaded=False)
    for response in (
        await client.get("/ready"),
        await client.get("/v1/models"),
        await client.post(CHAT, json=HELLO),
    ):
        assert response.status_code == 503
        assert error_of(response)["code"] == "model_loading"
        assert int(response.headers["retry-after"]) >= 1
    assert (await client.get("/health")).status_code == 200
    assert (await client.get("/metrics")).status_code == 200


async def test_a_dead_engine_that_comes_back_is_a_503(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.die(retry_after=2.0)
    response = await client.post(CHAT, json=HELLO)
    assert response.status_code == 503
    assert error_of(response)["code"] == "engine_restarting"
    assert response.headers["retry-after"] == "2"
    assert (await client.get("/health")).status_code == 503
    assert (await client.get("/ready")).status_code == 503


async def test_a_dead_engine_that_stays_down_is_a_500(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.die(retry_after=None)
    response = await client.post(CHAT, json=HELLO)
    assert response.status_code == 500
    error = error_of(response)
    assert (error["type"], error["code"]) == ("server_error", "engine_dead")
    assert response.headers["x-should-retry"] == "false"


async def test_a_bug_is_a_500_that_tells_nothing(
    client: httpx.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret at /root/place.py")

    monkeypatch.setattr(engine, "submit", broken)
    response = await client.post(CHAT, json=HELLO)
    assert response.status_code == 500
    error = error_of(response)
    assert error["code"] == "internal_error"
    assert "secret" not in response.text
