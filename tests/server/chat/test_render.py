"""Rendering is bounded in time, memory and size, whoever wrote the template."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine, MakeClient

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {
    "model": "fake-model",
    "messages": [{"role": "user", "content": "Hello"}],
}
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HUGE = "{% set s = namespace(t='x') %}{% for a in range(60) %}{% set s.t = s.t ~ s.t %}{% endfor %}"


async def error_of(client: httpx.AsyncClient, **change: Any) -> dict[str, Any]:
    response = await client.post(CHAT, json={**HELLO, **change})
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


async def test_an_endless_template_of_the_operator_is_stopped(
    make_client: MakeClient,
) -> None:
    client = await make_client(chat_template=ENDLESS, template_timeout=0.2)
    many = await asyncio.gather(*[error_of(client) for _ in range(6)])
    assert all("did not end within 0.2 s" in error["message"] for error in many)
    # The threads are free again: none of them still runs the template.
    started = time.process_time()
    await asyncio.sleep(0.2)
    assert time.process_time() - started < 0.1


async def test_the_event_loop_goes_on_while_a_template_runs(make_client: MakeClient) -> None:
    client = await make_client(chat_template=ENDLESS, template_timeout=0.5)
    rendering = asyncio.create_task(error_of(client))
    answers = 0
    while not rendering.done():
        answers += (await client.get("/health")).status_code == 200
        await asyncio.sleep(0.01)
    assert answers > 5


async def test_a_template_of_a_client_is_refused_unless_trusted(client: httpx.AsyncClient) -> None:
    error = await error_of(client, chat_template="{{ messages[0].content }}")
    assert (error["param"], error["code"]) == ("chat_template", "unsupported_parameter")
    assert "--trust-request-chat-template" in error["message"]


async def test_a_trusted_template_of_a_client_is_rendered_killed_and_bounded(
    make_client: MakeClient, engine: FakeEngine
) -> None:
    client = await make_client(trust_request_chat_template=True, template_timeout=1.5)

    async def with_template(template: str, **change: Any) -> dict[str, Any]:
        return await error_of(client, chat_template=template, **change)

    template = "{{ eos_token }}{{ messages[0].content }}{{ mood }}"
    for _ in range(1):
        body = {**HELLO, "chat_template": template, "chat_template_kwargs": {"mood": "!"}}
        assert (await client.post(CHAT, json=body)).status_code == 200
        eos = str(engine.tokenizer.hf_tokenizer.eos_token)
        assert engine.submitted[-1].prompt == f"{eos}Hello!"
        error = await with_template(ENDLESS)
        assert "did not end within 1.5 s" in error["message"]
    error = await with_template(HUGE)
    assert "memory" in error["message"] or "did not end" in error["message"]
    assert "Jinja" in (await with_template("{% for"))["message"]
    assert "no such" in (await with_template("{{ raise_exception('no such') }}"))["message"]
    unsafe = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    assert "Traceback" not in (await with_template(unsafe))["message"]
    error = await with_template(template, chat_template_kwargs={"messages": []})
    assert error["param"] == "chat_template_kwargs"


@pytest.mark.parametrize("name", ["messages", "tools", "tokenize", "chat_template", "eos_token"])
async def test_variables_cannot_override_what_steers_the_rendering(
    client: httpx.AsyncClient, name: str
) -> None:
    error = await error_of(client, chat_template_kwargs={name: "x"})
    assert (error["param"], error["code"]) == ("chat_template_kwargs", "invalid_value")
