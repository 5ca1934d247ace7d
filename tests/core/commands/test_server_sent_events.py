"""Streams are read whatever pieces they come in."""

from __future__ import annotations

import pytest

from windlass.commands.server_sent_events import EventParser, read_chunk, response_error
from windlass.errors import EngineError, RequestError

STREAM = 'data: {"text": "naïve"}\r\n\r\n: keep-alive\n\nevent: x\ndata:[DONE]\n\n'.encode()


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_events_do_not_depend_on_how_the_bytes_arrive(size: int) -> None:
    parser = EventParser()
    pieces = [STREAM[i : i + size] for i in range(0, len(STREAM), size)]
    events = [event for piece in pieces for event in parser.feed(piece)]
    assert events == ['{"text": "naïve"}', "[DONE]"]


def test_an_event_is_held_until_its_line_is_complete() -> None:
    parser = EventParser()
    assert list(parser.feed(b"data: 1")) == []
    assert list(parser.feed(b"2\n")) == ["12"]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ('{"error": {"message": "the engine died"}}', "the engine died"),
        ("not json", "no JSON"),
        ("[1]", "no object"),
    ],
)
def test_an_error_in_a_stream_is_raised(event: str, reason: str) -> None:
    with pytest.raises(EngineError, match=reason):
        read_chunk(event)


def test_a_refusal_keeps_the_servers_words() -> None:
    error = response_error(404, b'{"error": {"message": "no such model"}}')
    assert isinstance(error, RequestError)
    assert str(error) == "the server answered 404: no such model"


def test_a_failure_of_the_server_is_not_the_requests_fault() -> None:
    error = response_error(502, b"<html>bad gateway</html>")
    assert isinstance(error, EngineError)
    assert "bad gateway" in str(error)
