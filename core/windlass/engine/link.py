"""What every front end does with its engine, whether it owns the process or was attached to it."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from enum import Enum
from typing import Protocol

from windlass.config import ModelInfo
from windlass.engine.ipc import (
    Abort,
    AddRequests,
    FromEngine,
    Inspect,
    Inspected,
    Outputs,
    PrefixCacheReset,
    RequestRejected,
    ResetPrefixCache,
    ToEngine,
)
from windlass.engine.outputs import EngineStats
from windlass.engine.view import EngineView
from windlass.errors import EngineDeadError
from windlass.request import Request

_FIRST_STEP_FACTOR = 5


class State(Enum):
    """What the engine process is doing."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    DEAD_FOREVER = "dead for good"
    CLOSED = "shut down"


class EngineListener(Protocol):
    """Who uses the engine; called on the event loop."""

    @property
    def has_unfinished(self) -> bool:
        """Whether the engine owes an answer."""
        ...

    def on_outputs(self, message: Outputs) -> None:
        """Take the news of a step."""
        ...

    def on_rejected(self, message: RequestRejected) -> None:
        """Learn that a sequence was refused."""
        ...

    def on_death(self, error: EngineDeadError) -> None:
        """Learn that everything in flight is lost."""
        ...


class EngineLink(ABC):
    """Talks to one engine process after the other for a listener; belongs to one event loop.

    `step_timeout` is in seconds: how long answers may be owed while no step ends (five times as
    long before the first step).
    """

    def __init__(self, listener: EngineListener, step_timeout: float) -> None:
        self._listener = listener
        self._step_timeout = step_timeout
        self._cache_reset: asyncio.Future[bool] | None = None
        self._view: asyncio.Future[EngineView | None] | None = None
        self._progress_at = 0.0
        self.state = State.STARTING
        self.stats = EngineStats()
        self.restarts = 0

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """The engine's process id, None while there is none."""

    @abstractmethod
    async def start(self) -> ModelInfo:
        """Wait until there is an engine whose model is loaded; raises WindlassError."""

    @abstractmethod
    async def close(self) -> None:
        """Give everything back; calling it again does nothing."""

    @abstractmethod
    def _send(self, message: ToEngine) -> None:
        """Send without waiting; what cannot be sent is lost."""

    @abstractmethod
    def _dead_error(self, what: str = "the engine cannot serve") -> EngineDeadError:
        """Say why requests cannot be served, and when to come again."""

    def add_requests(self, requests: list[Request]) -> None:
        """Send sequences to the engine; raises EngineDeadError when it is not ready."""
        self.check_ready()
        self._send(AddRequests(requests))

    def abort(self, request_ids: list[str]) -> None:
        """Let the engine forget sequences; nothing happens when it is not ready."""
        if self.state is State.READY:
            self._send(Abort(request_ids))

    async def reset_prefix_cache(self) -> bool:
        """Drop cached blocks; False when that is not possible now."""
        self.check_ready()
        if self._cache_reset is None:
            self._cache_reset = asyncio.get_running_loop().create_future()
            self._send(ResetPrefixCache())
        return await asyncio.shield(self._cache_reset)

    async def view(self) -> EngineView:
        """Return what stands where in the engine, between two steps.

        Raises:
            EngineDeadError: the engine is not ready, or dies before it answers.
        """
        self.check_ready()
        if self._view is None:
            self._view = asyncio.get_running_loop().create_future()
            self._send(Inspect())
        view = await asyncio.shield(self._view)
        if view is None:
            raise self._dead_error()
        return view

    def check_ready(self) -> None:
        """Raise EngineDeadError when requests cannot be served now."""
        if self.state is not State.READY:
            raise self._dead_error()

    @property
    def hung(self) -> bool:
        """Whether answers are owed and no step has ended for too long."""
        if self.state is not State.READY or not self._listener.has_unfinished:
            return False
        return time.monotonic() - self._progress_at > self._step_limit

    @property
    def _step_limit(self) -> float:
        first = self.stats.num_steps == 0
        return self._step_timeout * (_FIRST_STEP_FACTOR if first else 1)

    @property
    def _watch_interval(self) -> float:
        return min(1.0, self._step_timeout / 4)

    def _look_for_hang(self) -> bool:
        """Whether the engine hangs now; an engine that owes nothing makes progress."""
        if not self._listener.has_unfinished:
            self._progress_at = time.monotonic()
        return self.hung

    def _begin(self) -> None:
        """Serve with a fresh engine."""
        self._progress_at = time.monotonic()
        self.state = State.READY

    def _end_waits(self) -> None:
        """Give those who wait for an answer the news that there will be none."""
        self._end_cache_reset(False)
        self._end_view(None)

    def _on_message(self, message: FromEngine) -> None:
        match message:
            case Outputs():
                if message.stats.num_steps != self.stats.num_steps:
                    self._progress_at = time.monotonic()
                self.stats = message.stats
                self._listener.on_outputs(message)
            case RequestRejected():
                self._listener.on_rejected(message)
            case PrefixCacheReset():
                self._end_cache_reset(message.done)
            case Inspected():
                self._end_view(message.view)

    def _end_cache_reset(self, done: bool) -> None:
        waiting, self._cache_reset = self._cache_reset, None
        if waiting is not None and not waiting.done():
            waiting.set_result(done)

    def _end_view(self, view: EngineView | None) -> None:
        waiting, self._view = self._view, None
        if waiting is not None and not waiting.done():
            waiting.set_result(view)
