"""The engine process of the front end that owns it: start it, notice its death, replace it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from windlass import errors
from windlass.config import EngineConfig, ModelInfo
from windlass.engine.ipc import Attach, Detach, Failed, FromEngine, LoadProgress, Ready, ToEngine
from windlass.engine.link import EngineLink, EngineListener, State
from windlass.engine.outputs import EngineStats
from windlass.engine.process import DEFAULT_RUNNER_FACTORY, EngineProcess, describe_exit
from windlass.engine.restart import Deaths, RestartPolicy
from windlass.errors import EngineDeadError, EngineError, WindlassError

logger = logging.getLogger(__name__)

ProgressCallback = Callable[[str, float], None]

_LAST_WORDS_SECONDS = 1.0


class EngineClient(EngineLink):
    """Keeps one engine process alive for a listener; belongs to one event loop.

    A process that dies or hangs is replaced after a delay, as `policy` says; everything that was
    in flight is lost and the listener told. `on_ready` is called whenever a process can serve.
    """

    def __init__(
        self,
        config: EngineConfig,
        listener: EngineListener,
        *,
        runner_factory: str = DEFAULT_RUNNER_FACTORY,
        policy: RestartPolicy | None = None,
        progress: ProgressCallback | None = None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(listener, config.step_timeout)
        self._config = config
        self._runner_factory = runner_factory
        self._progress = progress
        self._on_ready = on_ready
        self._process: EngineProcess | None = None
        self._ready: asyncio.Future[ModelInfo] | None = None
        self._supervision: asyncio.Task[None] | None = None
        self._deaths = Deaths(policy or RestartPolicy())
        self._cause: str | None = None
        self._retry_at = 0.0
        self._load_seconds = 0.0

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
        self._on_ready()
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
        self._end_waits()
        process, self._process = self._process, None
        if process is not None:
            await process.stop(0.0 if loading else grace)

    def attach(self, endpoint: str, front_end: int) -> None:
        """Have the engine serve one more front end; nothing happens when it is not ready."""
        if self.state is State.READY:
            self._send(Attach(endpoint, front_end))

    def detach(self, front_end: int) -> None:
        """Have the engine forget a front end and its sequences."""
        if self.state is State.READY:
            self._send(Detach(front_end))

    async def replace_hung(self, cause: str) -> None:
        """Kill an engine that hangs, after it has printed its stacks; another one follows."""
        process = self._process
        if self.state is not State.READY or process is None or self._cause is not None:
            return
        self._cause = cause
        logger.error("The engine hangs: %s. It is killed", cause)
        await process.kill_with_stacks()
        await asyncio.wait({process.exited})

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
        self._begin()
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
                self._on_ready()
                logger.info("The engine serves again (restart %d)", self.restarts)
                reason = await self._wait_for_death()

    async def _wait_for_death(self) -> str:
        process = self._process
        assert process is not None
        while not process.exited.done():
            await asyncio.wait({process.exited}, timeout=self._watch_interval)
            # What arrived while this process was busy itself must not look like a hang.
            process.drain()
            if self._look_for_hang() and not process.exited.done():
                await self.replace_hung(f"no step ended for {self._step_limit:g} s")
        return self._cause or describe_exit(process.exited.result())

    def _bury(self, reason: str) -> bool:
        """Take leave of a process; returns whether another one is to follow."""
        delay = self._deaths.note()
        if delay is None:
            self.state = State.DEAD_FOREVER
        else:
            self.state = State.RESTARTING
            self._retry_at = time.monotonic() + delay
        logger.error("The engine process died (%s): it is %s", reason, self.state.value)
        process, self._process = self._process, None
        if process is not None:
            process.release()
        self._end_waits()
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
            case LoadProgress():
                if self._progress is not None:
                    self._progress(message.what, message.share)
            case Ready():
                self._settle(message.info)
            case Failed():
                self._settle(start_error(message.error, message.message))
            case _:
                super()._on_message(message)

    def _settle(self, outcome: ModelInfo | WindlassError) -> None:
        if self._ready is None or self._ready.done():
            return
        if isinstance(outcome, ModelInfo):
            self._ready.set_result(outcome)
        else:
            self._ready.set_exception(outcome)


def start_error(name: str, message: str) -> WindlassError:
    """Return the error with which a process could not start; `name` is its class's."""
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, WindlassError):
        return kind(message)
    return EngineError(message)
