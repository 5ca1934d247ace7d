"""The format of a model's calls is found in its template, or named by a flag."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from windlass_server.models.served_model import format_of
from windlass_server.state import ServerState

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient

pytestmark = pytest.mark.anyio

TOOL = {
    "type": "function",
    "function": {
        "name": "haul",
        "parameters": {"type": "object", "properties": {"rope": {"type": "integer"}}},
    },
}
HELLO: dict[str, Any] = {
    "model": "fake-model",
    "messages": [{"role": "user", "content": "Haul!"}],
    "tools": [TOOL],
}
ARGUMENTS = {"rope": 3}
CALL = json.dumps({"name": "haul", "arguments": ARGUMENTS})
HERMES = f"<tool_call>\n{CALL}\n</tool_call>"
QWEN_CODER = (
    "<tool_call>\n<function=haul>\n<parameter=rope>\n3\n</parameter>\n</function>\n</tool_call>"
)
TEMPLATE = "{% if tools %}{{ tools | tojson }}{% endif %}{{ messages | tojson }}"


@pytest.fixture
def client_of(
    make_state: Callable[..., ServerState], make_client: MakeClient, engine: FakeEngine
) -> Callable[..., Any]:
    async def make(**settings: Any) -> httpx.AsyncClient:
        engine.widen(4096)
        state = make_state(**settings)
        model = state.models.default
        model.chat_format = format_of(engine.tokenizer, model.settings)
        return await make_client(state=state)

    return make


async def called(client: httpx.AsyncClient, **change: Any) -> dict[str, Any]:
    response = await client.post("/v1/chat/completions", json={**HELLO, **change})
    assert response.status_code == 200, response.text
    (call,) = response.json()["choices"][0]["message"]["tool_calls"]
    function: dict[str, Any] = call["function"]
    return function


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({"chat_template": TEMPLATE + "{# <tool_call> #}"}, HERMES),
        ({"chat_template": TEMPLATE + "{# <function= <parameter= #}"}, QWEN_CODER),
        ({"chat_template": TEMPLATE, "tool_call_parser": "hermes"}, HERMES),
        ({"chat_template": TEMPLATE}, CALL.replace("arguments", "parameters")),
        ({}, HERMES),
    ],
    ids=["hermes", "qwen3_coder", "named", "bare", "a template without tools"],
)
async def test_a_call_is_read_in_the_model_s_own_syntax(
    client_of: Callable[..., Any],
    engine: FakeEngine,
    settings: dict[str, Any],
    answer: str,
) -> None:
    engine.answer = answer
    function = await called(await client_of(**settings))
    assert (function["name"], json.loads(function["arguments"])) == ("haul", ARGUMENTS)


@pytest.mark.parametrize("choice", ["auto", "required"])
async def test_calls_are_bound_to_their_tools(
    client_of: Callable[..., Any], engine: FakeEngine, choice: str
) -> None:
    engine.answer = HERMES
    client = await client_of(chat_template=TEMPLATE, tool_call_parser="hermes")
    await called(client, tool_choice=choice)
    constraint = engine.submitted[0].sampling.structured_outputs
    assert constraint is not None
    assert constraint.grammar is not None
    assert "haul" in constraint.grammar


async def test_a_model_whose_template_knows_no_tools_is_told_of_them(
    client_of: Callable[..., Any], engine: FakeEngine
) -> None:
    engine.answer = HERMES
    client = await client_of()
    await called(client)
    assert "haul" in (engine.submitted[0].prompt or "")
    counted = await client.post("/tokenize", json={k: HELLO[k] for k in ("messages", "tools")})
    assert counted.json()["tokens"] == engine.submitted[0].prompt_token_ids
