"""Reads the streams of an OpenAI-compatible server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from windlass.errors import EngineError, RequestError, WindlassError

END_OF_STREAM = "[DONE]"


class EventParser:
    """Cuts a byte stream into the data of server-sent events, whatever chunks it comes in."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[str]:
        """Yield the data of every event that `data` completes; comments are left out."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip().decode()


def read_chunk(event: str) -> dict[str, Any]:
    """Parse an event's data.

    Raises:
        EngineError: the server reports an error in the stream, or the data is no JSON object.
    """
    try:
        chunk = json.loads(event)
    except ValueError as error:
        raise EngineError(f"the server sent an event that is no JSON: {event[:100]!r}") from error
    if not isinstance(chunk, dict):
        raise EngineError(f"the server sent an event that is no object: {event[:100]!r}")
    if "error" in chunk:
        raise EngineError(_message(chunk))
    return chunk


def response_error(status: int, body: bytes) -> WindlassError:
    """The error that a response with a status of 400 or more stands for."""
    try:
        text = _message(json.loads(body))
    except ValueError:
        text = body.decode(errors="replace")[:200]
    message = f"the server answered {status}: {text}"
    return EngineError(message) if status >= 500 else RequestError(message)


def _message(body: object) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        return str(error.get("message", error))
    return str(error if error is not None else body)[:200]
