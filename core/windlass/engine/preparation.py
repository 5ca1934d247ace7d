"""Requests that wait for something that their runner prepares, before the scheduler sees them.

A grammar is compiled on threads of the runner's. Its request waits here meanwhile, and nobody
else does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from windlass.errors import RequestError
from windlass.request import Request, SamplingParams
from windlass.step import ModelRunner

logger = logging.getLogger(__name__)

_PATIENCE = 0.01
"""Seconds to wait for a preparation when there is nothing else to do; then messages are read."""

Prepare = Callable[[SamplingParams], Future[Any] | None]


class Preparation:
    """The requests in preparation, in the order in which they came."""

    def __init__(self, runner: ModelRunner) -> None:
        self._prepare: Prepare | None = getattr(runner, "prepare", None)
        self._waiting: dict[str, tuple[Request, Future[Any]]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting

    def takes(self, request: Request) -> bool:
        """Whether the request has to wait; it is kept then.

        Raises:
            RequestError: the runner refuses it.
        """
        future = self._prepare(request.sampling) if self._prepare is not None else None
        if future is None or (future.done() and future.exception() is None):
            return False
        self._waiting[request.request_id] = (request, future)
        return True

    def ready(self, *, idle: bool) -> list[tuple[Request, str]]:
        """Take out who need not wait any more, with what went wrong or ""; may wait when `idle`."""
        if idle and self._waiting:
            wait([f for _, f in self._waiting.values()], _PATIENCE, FIRST_COMPLETED)
        done = [(r, f) for r, f in self._waiting.values() if f.done()]
        for request, _ in done:
            del self._waiting[request.request_id]
        return [(request, _problem(future)) for request, future in done]

    def drop(self, request_ids: Iterable[str]) -> list[str]:
        """Take out aborted requests; returns those that were here."""
        dropped = [i for i in request_ids if i in self._waiting]
        for request_id in dropped:
            del self._waiting[request_id]
        return dropped


def _problem(future: Future[Any]) -> str:
    error = future.exception()
    if error is None:
        return ""
    if isinstance(error, RequestError):
        return error.message
    logger.error("A request could not be prepared", exc_info=error)
    return "the request could not be prepared"
