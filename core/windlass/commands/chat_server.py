"""Chats with a running OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType
from typing import Any, Self

import httpx

from windlass.commands.chat_partner import AnswerTimes, Message
from windlass.commands.server_sent_events import (
    END_OF_STREAM,
    EventParser,
    read_chunk,
    response_error,
)
from windlass.errors import EngineError

_CONNECT_SECONDS = 10.0


class ServerPartner:
    """A server at `url` (with or without the final /v1); `model` None is the server's first.

    Raises:
        WindlassError: the server cannot be reached, refuses, or has no model.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> None:
        base_url = url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
        self._client = httpx.Client(base_url=base_url, headers=headers, timeout=timeout)
        self._options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
        self.times = AnswerTimes()
        self.name = model or self._first_model()

    def answer(self, messages: list[Message]) -> Generator[str]:
        """Yield the answer piece by piece; closing the generator closes the connection."""
        self.times = AnswerTimes()
        body = {
            "model": self.name,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **{name: value for name, value in self._options.items() if value is not None},
        }
        pieces = 0
        for chunk in self._chunks(body):
            usage = chunk.get("usage")
            if usage:
                self.times.tokens = usage["completion_tokens"]
            for choice in chunk.get("choices", ()):
                text = choice.get("delta", {}).get("content")
                if text:
                    pieces += 1
                    self.times.note(pieces)
                    yield text

    def _chunks(self, body: dict[str, Any]) -> Generator[dict[str, Any]]:
        parser = EventParser()
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code >= 400:
                    raise response_error(response.status_code, response.read())
                for data in response.iter_bytes():
                    for event in parser.feed(data):
                        if event == END_OF_STREAM:
                            return
                        yield read_chunk(event)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _first_model(self) -> str:
        try:
            response = self._client.get("/v1/models")
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.status_code >= 400:
            raise response_error(response.status_code, response.content)
        models = response.json().get("data", [])
        if not models:
            raise EngineError(f"the server at {self._client.base_url} has no model")
        name: str = models[0]["id"]
        return name

    def _unreachable(self, error: httpx.HTTPError) -> EngineError:
        reason = str(error) or type(error).__name__
        return EngineError(f"the server at {self._client.base_url} cannot be reached: {reason}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.close()
