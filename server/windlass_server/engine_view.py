"""The engine's view of itself as the server tells it: ids shortened, taken a few times a second.

It tells how many requests there are and how long they are, never what is in them. The last
characters of a request's id are enough to find one's own in a log, and too few to use it.
"""

from __future__ import annotations

import asyncio
import time

import msgspec

from windlass.engine.view import EngineView
from windlass.errors import EngineDeadError
from windlass_server.engine import Engine
from windlass_server.errors import engine_away, unavailable
from windlass_server.metrics import ServerMetrics
from windlass_server.protocol.view import Seconds, ServerView

MIN_INTERVAL = 0.2
"""Seconds for which one look at the engine is given to all who ask."""
MAX_WAIT = 5.0
"""Seconds to wait for the step in progress to end."""
SHOWN_CHARACTERS = 8


class ViewCache:
    """The latest answer about one model, so that those who watch cost no more than one of them."""

    def __init__(self, model_name: str, metrics: ServerMetrics) -> None:
        self._model_name = model_name
        self._metrics = metrics
        self._started = time.monotonic()
        self._taken = float("-inf")
        self._body = b""

    async def body(self, engine: Engine) -> bytes:
        """Return the answer as JSON, at most `MIN_INTERVAL` old.

        Raises:
            ApiError: 503 when the engine is down, or busy for too long.
        """
        if time.monotonic() - self._taken >= MIN_INTERVAL:
            view = await _look(engine)
            self._taken = time.monotonic()
            self._body = msgspec.json.encode(self._answer(engine, view))
        return self._body

    def _answer(self, engine: Engine, view: EngineView) -> ServerView:
        metrics, info = self._metrics, engine.info
        listed = [
            msgspec.structs.replace(seq, request_id=seq.request_id[-SHOWN_CHARACTERS:])
            for seq in view.sequences
        ]
        return ServerView(
            model=self._model_name,
            device=f"{info.backend} ({info.device}, {info.dtype})",
            uptime=self._taken - self._started,
            restarts=engine.restarts,
            first_token=Seconds(*metrics.sum_and_count("vllm:time_to_first_token_seconds")),
            inter_token=Seconds(*metrics.sum_and_count("vllm:inter_token_latency_seconds")),
            engine=msgspec.structs.replace(view, sequences=listed),
        )


async def _look(engine: Engine) -> EngineView:
    try:
        async with asyncio.timeout(MAX_WAIT):
            return await engine.view()
    except TimeoutError:
        raise unavailable("The engine is busy; try again.", "engine_busy", 1.0) from None
    except EngineDeadError as exc:
        raise engine_away(exc) from exc
