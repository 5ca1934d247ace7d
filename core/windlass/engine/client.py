"""A front end's side of the engine process: start it, talk to it, notice its death, replace it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from windlass import errors
from windlass.config import EngineConfig, ModelInfo
from windlass.engine.ipc import (
    Abort,
    AddRequests,
    Failed,
    FromEngine,
    Inspect,
    Inspected,
    LoadProgress,
    Outputs,
    PrefixCacheReset,
    Ready,
    RequestRejected,
    ResetPrefixCache,
    ToEngine,
)
from windlass.engine.outputs import EngineStats
from windlass.engine.process import DEFAULT_RUNNER_FACTORY, EngineProcess, describe_exit
from windlass.engine.view import EngineView
from windlass.errors import EngineDeadError, EngineError, WindlassError
from windlass.request import Request

logger = logging.getLogger(__name__)

ProgressCallback = Callable[[str, float], None]

_FIRST_STEP_FACTOR = 5
_LAST_WORDS_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """How often a dead engine is replaced. Delays and `window` in seconds.

    More than `max_deaths` within `window` and it stays down.
    """

    first_delay: float = 0.5
    max_delay: float = 10.0
    max_deaths: int = 5
    window: float = 600.0

    def delay(self, deaths: int) -> float:
        """Return how long to wait after this many deaths within the window."""
        return float(min(self.max_delay, self.first_delay * 2 ** (deaths - 1)))


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


class EngineClient:
    """Keeps one engine process alive for a listener; belongs to one event loop.

    A process that dies or hangs is replaced after a delay, as `policy` says; everything that was
    in flight is lost and the listener told.
    """

    def __init__(
        self,
        config: EngineConfig,
        listener: EngineListener,
        *,
        runner_factory: str = DEFAULT_RUNNER_FACTORY,
        policy: RestartPolicy | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        self._config = config
        self._listener = listener
        self._runner_factory = runner_factory
        self._policy = policy or RestartPolicy()
        self._progress = progress
        self._process: EngineProcess | None = None
        self._ready: asyncio.Future[ModelInfo] | None = None
        self._supervision: asyncio.Task[None] | None = None
        self._cache_reset: asyncio.Future[bool] | None = None
        self._view: asyncio.Future[EngineView | None] | None = None
        self._deaths: deque[float] = deque()
        self._cause: str | None = None
        self._retry_at = 0.0
        self._load_seconds = 0.0
        self._progress_at = 0.0
        self.state = State.STARTING
        self.stats = EngineStats()
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The engine's process id, None while there is none."""
        return None if self._process is None else self._process.pid

    async def start(self) -> ModelInfo:
        """Start the engine and wait until its model is loaded.

        Raises:
            WindlassError: the start failed, with the engine's own one-line reason.
        """
        try:
            info = await self._launch()
        except BaseException:
            await self.close()
            raise
        self._supervision = asyncio.create_task(self._supervise())
        return info

    async def close(self, grace: float = 5.0) -> None:
        """End the engine process and give everything back; calling it again does nothing."""
        loading = self.state in (State.STARTING, State.RESTARTING)
        self.state = State.CLOSED
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.wait({self._supervision})
            self._supervision = None
        self._end_cache_reset(False)
        self._end_view(None)
        process, self._process = self._process, None
        if process is not None:
            await process.stop(0.0 if loading else grace)

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
        return self._config.step_timeout * (_FIRST_STEP_FACTOR if first else 1)

    def _send(self, message: ToEngine) -> None:
        if self._process is not None:
            self._process.send(message)

    # -- one life -------------------------------------------------------------------------

    async def _launch(self) -> ModelInfo:
        self.stats = EngineStats()
        self._cause = None
        started = time.monotonic()
        ready: asyncio.Future[ModelInfo] = asyncio.get_running_loop().create_future()
        self._ready = ready
        process = EngineProcess(self._config, self._runner_factory, self._on_message)
        self._process = process
        outcomes: set[asyncio.Future[Any]] = {ready, process.exited}
        await asyncio.wait(outcomes, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            # The process has ended, but its last words may still be on their way.
            await asyncio.wait({ready}, timeout=_LAST_WORDS_SECONDS)
        if not ready.done():
            code = process.exited.result()
            raise EngineError(f"the engine process ended while it started ({describe_exit(code)})")
        if self.state is State.CLOSED:
            raise self._dead_error()
        info = ready.result()
        self._load_seconds = time.monotonic() - started
        self._progress_at = time.monotonic()
        self.state = State.READY
        return info

    async def _supervise(self) -> None:
        reason = await self._wait_for_death()
        while self._bury(reason):
            await asyncio.sleep(max(0.0, self._retry_at - time.monotonic()))
            try:
                await self._launch()
            except WindlassError as error:
                reason = str(error)
            else:
                self.restarts += 1
                logger.info("The engine serves again (restart %d)", self.restarts)
                reason = await self._wait_for_death()

    async def _wait_for_death(self) -> str:
        process = self._process
        assert process is not None
        while not process.exited.done():
            await asyncio.wait({process.exited}, timeout=min(1.0, self._config.step_timeout / 4))
            # What arrived while this process was busy itself must not look like a hang.
            process.drain()
            if not self._listener.has_unfinished:
                self._progress_at = time.monotonic()
            elif self.hung and not process.exited.done():
                self._cause = f"no step ended for {self._step_limit:g} s"
                logger.error("The engine hangs: %s. It is killed", self._cause)
                await process.kill_with_stacks()
                await asyncio.wait({process.exited})
        return self._cause or describe_exit(process.exited.result())

    def _bury(self, reason: str) -> bool:
        """Take leave of a process; returns whether another one is to follow."""
        now = time.monotonic()
        self._deaths.append(now)
        while now - self._deaths[0] > self._policy.window:
            self._deaths.popleft()
        if len(self._deaths) > self._policy.max_deaths:
            self.state = State.DEAD_FOREVER
        else:
            self.state = State.RESTARTING
            self._retry_at = now + self._policy.delay(len(self._deaths))
        logger.error("The engine process died (%s): it is %s", reason, self.state.value)
        process, self._process = self._process, None
        if process is not None:
            process.release()
        self._end_cache_reset(False)
        self._end_view(None)
        self._listener.on_death(self._dead_error(f"the engine process died ({reason})"))
        return self.state is State.RESTARTING

    def _dead_error(self, what: str = "the engine cannot serve") -> EngineDeadError:
        if self.state is not State.RESTARTING:
            return EngineDeadError(f"{what}: it is {self.state.value}")
        wait = max(1.0, self._retry_at - time.monotonic() + self._load_seconds)
        return EngineDeadError(f"{what}: it is restarting, try again soon", retry_after=wait)

    # -- messages -------------------------------------------------------------------------

    def _on_message(self, message: FromEngine) -> None:
        match message:
            case Outputs():
                if message.stats.num_steps != self.stats.num_steps:
                    self._progress_at = time.monotonic()
                self.stats = message.stats
                self._listener.on_outputs(message)
            case LoadProgress() if self._progress is not None:
                self._progress(message.what, message.share)
            case Ready():
                self._settle(message.info)
            case Failed():
                self._settle(_start_error(message))
            case RequestRejected():
                self._listener.on_rejected(message)
            case PrefixCacheReset():
                self._end_cache_reset(message.done)
            case Inspected():
                self._end_view(message.view)

    def _settle(self, outcome: ModelInfo | WindlassError) -> None:
        if self._ready is None or self._ready.done():
            return
        if isinstance(outcome, ModelInfo):
            self._ready.set_result(outcome)
        else:
            self._ready.set_exception(outcome)

    def _end_cache_reset(self, done: bool) -> None:
        waiting, self._cache_reset = self._cache_reset, None
        if waiting is not None and not waiting.done():
            waiting.set_result(done)

    def _end_view(self, view: EngineView | None) -> None:
        waiting, self._view = self._view, None
        if waiting is not None and not waiting.done():
            waiting.set_result(view)


def _start_error(message: Failed) -> WindlassError:
    kind = getattr(errors, message.error, None)
    if isinstance(kind, type) and issubclass(kind, WindlassError):
        return kind(message.message)
    return EngineError(message.message)
