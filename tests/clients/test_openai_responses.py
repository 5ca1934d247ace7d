"""The `openai` client on the Responses API: created, streamed, kept, gone on with, cancelled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from openai import OpenAI
    from tests.clients.conftest import Served

openai = pytest.importorskip("openai")

HELLO = "Hello! Who are you?"


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[OpenAI]:
    with openai.OpenAI(base_url=served.api, api_key=served.key) as client:
        yield client


def test_a_response_is_created_kept_and_gone_on_with(client: OpenAI, served: Served) -> None:
    first = client.responses.create(model=served.model, input=HELLO, temperature=0)
    assert first.status == "completed"
    assert first.output_text
    assert client.responses.retrieve(first.id).output_text == first.output_text
    (item,) = client.responses.input_items.list(first.id).data
    assert item.content[0].text == HELLO  # type: ignore[union-attr]
    second = client.responses.create(
        model=served.model, input="Go on.", previous_response_id=first.id, max_output_tokens=5
    )
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.total_tokens
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_a_stream_says_what_the_whole_response_says(client: OpenAI, served: Served) -> None:
    options: dict[str, Any] = {"model": served.model, "input": HELLO, "temperature": 0}
    whole = client.responses.create(**options)
    names = []
    with client.responses.stream(**options) as stream:
        for event in stream:
            names.append(event.type)
        final = stream.get_final_response()
    assert final.output_text == whole.output_text
    assert names[0] == "response.created"
    assert names[-1] == "response.completed"


def test_the_asynchronous_client_streams(served: Served) -> None:
    async def read() -> str:
        text = ""
        async with openai.AsyncOpenAI(base_url=served.api, api_key=served.key) as client:
            stream = await client.responses.create(model=served.model, input=HELLO, stream=True)
            async for event in stream:
                text += event.delta if event.type == "response.output_text.delta" else ""
        return text

    assert asyncio.run(read())


def test_a_background_response_is_polled_and_streamed_again(client: OpenAI, served: Served) -> None:
    response = client.responses.create(model=served.model, input=HELLO, background=True)
    assert response.status == "queued"
    deadline = time.monotonic() + 60
    while response.status in ("queued", "in_progress") and time.monotonic() < deadline:
        time.sleep(0.1)
        response = client.responses.retrieve(response.id)
    assert response.status == "completed"
    events = list(client.responses.retrieve(response.id, stream=True))
    assert events[-1].type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_a_background_response_is_cancelled(client: OpenAI, served: Served) -> None:
    response = client.responses.create(
        model=served.model, input=HELLO, background=True, extra_body={"ignore_eos": True}
    )
    assert client.responses.cancel(response.id).status == "cancelled"


def test_input_tokens_are_counted(client: OpenAI, served: Served) -> None:
    counted = client.responses.input_tokens.count(model=served.model, input=HELLO)
    response = client.responses.create(model=served.model, input=HELLO, max_output_tokens=1)
    assert response.usage is not None
    assert counted.input_tokens == response.usage.input_tokens
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
