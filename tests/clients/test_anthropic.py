"""The `anthropic` client: whole, streamed, asynchronous, counted, and refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from anthropic import Anthropic
    from tests.clients.conftest import Served

anthropic = pytest.importorskip("anthropic")

HELLO: Any = [{"role": "user", "content": "Hello! Who are you?"}]


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Anthropic]:
    with anthropic.Anthropic(base_url=served.url, api_key=served.key) as client:
        yield client


@pytest.fixture
def options(served: Served) -> dict[str, Any]:
    return {
        "model": served.model,
        "max_tokens": 60,
        "messages": HELLO,
        "extra_body": {"temperature": 0},
    }


def test_a_message_is_answered(client: Anthropic, options: dict[str, Any]) -> None:
    message = client.messages.create(**options, system="Be brief.")
    assert message.content[0].type == "text"
    assert message.content[0].text
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens > 0
    assert message._request_id


def test_a_stream_says_what_the_whole_message_says(
    client: Anthropic, options: dict[str, Any]
) -> None:
    whole = client.messages.create(**options)
    with client.messages.stream(**options) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text  # type: ignore[union-attr]
    assert final.content[0].text == text  # type: ignore[union-attr]
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_the_asynchronous_client_streams(served: Served, options: dict[str, Any]) -> None:
    async def read() -> str:
        async with (
            anthropic.AsyncAnthropic(base_url=served.url, api_key=served.key) as client,
            client.messages.stream(**options) as stream,
        ):
            return "".join([text async for text in stream.text_stream])

    assert asyncio.run(read())


def test_tokens_are_counted_as_a_message_counts_them(
    client: Anthropic, options: dict[str, Any]
) -> None:
    count = client.messages.count_tokens(model=options["model"], messages=HELLO)
    usage = client.messages.create(**options).usage
    assert count.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_a_stop_sequence_ends_the_message(client: Anthropic, options: dict[str, Any]) -> None:
    text = client.messages.create(**options).content[0].text  # type: ignore[union-attr]
    word = text.split()[2]
    message = client.messages.create(**options, stop_sequences=[word])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", word)
    assert word not in message.content[0].text  # type: ignore[union-attr]


def test_errors_arrive_as_their_classes(
    served: Served, client: Anthropic, options: dict[str, Any]
) -> None:
    with pytest.raises(anthropic.BadRequestError, match="max_tokens") as bad:
        client.messages.create(**{**options, "max_tokens": 0})
    assert bad.value.type == "invalid_request_error"
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**{**options, "model": "other"})
    stranger = anthropic.Anthropic(base_url=served.url, api_key="wrong")
    with stranger, pytest.raises(anthropic.AuthenticationError):
        stranger.messages.create(**options)
