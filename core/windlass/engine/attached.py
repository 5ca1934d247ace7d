"""A front end of an engine that another process owns."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from windlass.config import EngineConfig, ModelInfo
from windlass.engine.ipc import ClientChannel, FromEngine, Ready, ToEngine
from windlass.engine.link import EngineLink, EngineListener, State
from windlass.engine.outputs import EngineStats
from windlass.errors import EngineDeadError


class EngineOwner(Protocol):
    """The owner, as far as a front end that it attached can reach it."""

    def attach(self, endpoint: str) -> None:
        """Have the engine connect to `endpoint`."""
        ...

    def report_hang(self, cause: str) -> None:
        """Say that the engine has to be replaced."""
        ...


class AttachedClient(EngineLink):
    """Serves a listener with an engine whose owner says when it comes and goes.

    Each life of the engine gets a socket of its own, to which it connects.
    """

    def __init__(self, config: EngineConfig, listener: EngineListener, owner: EngineOwner) -> None:
        super().__init__(listener, config.step_timeout)
        self._owner = owner
        self._channel: ClientChannel | None = None
        self._pid: int | None = None
        self._watch: asyncio.Task[None] | None = None
        self._first: asyncio.Future[ModelInfo] = asyncio.get_running_loop().create_future()
        self._away = ""
        self._retry_at = 0.0

    @property
    def pid(self) -> int | None:
        """The engine's process id, None while there is none."""
        return self._pid

    async def start(self) -> ModelInfo:
        """Wait until an engine has connected for the first time.

        Raises:
            EngineDeadError: the owner says that there will be none.
        """
        return await asyncio.shield(self._first)

    async def close(self) -> None:
        """Leave the engine, which its owner ends; calling it again does nothing."""
        self._leave(State.CLOSED)

    def engine_is_up(self, pid: int, restarts: int) -> None:
        """The owner has an engine that can serve: ask to be attached to it."""
        if self.state is State.CLOSED:
            return
        self._drop_channel()
        self.stats = EngineStats()
        self._pid, self.restarts = pid, restarts
        self._channel = ClientChannel(self._on_message, greeting=None)
        self._owner.attach(self._channel.endpoint)

    def engine_is_down(self, message: str, retry_after: float | None) -> None:
        """The engine died; another one comes after `retry_after` seconds, or none with None."""
        if self.state is State.CLOSED:
            return
        self._away = message
        self._retry_at = time.monotonic() + (retry_after or 0.0)
        self._leave(State.DEAD_FOREVER if retry_after is None else State.RESTARTING)
        error = self._dead_error()
        if retry_after is None and not self._first.done():
            self._first.set_exception(error)
        self._listener.on_death(error)

    def _leave(self, state: State) -> None:
        self.state = state
        self._pid = None
        self._drop_channel()
        self._end_waits()

    def _drop_channel(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    async def _watch_for_hangs(self, channel: ClientChannel) -> None:
        while True:
            await asyncio.sleep(self._watch_interval)
            # What arrived while this process was busy itself must not look like a hang.
            channel.drain_all()
            if self._look_for_hang():
                self._owner.report_hang(f"no step ended for {self._step_limit:g} s")
                return

    def _send(self, message: ToEngine) -> None:
        if self._channel is not None:
            self._channel.send(message)

    def _dead_error(self, what: str = "the engine cannot serve") -> EngineDeadError:
        if self.state is State.RESTARTING:
            wait = max(1.0, self._retry_at - time.monotonic())
            return EngineDeadError(self._away, retry_after=wait)
        if self.state is State.DEAD_FOREVER:
            return EngineDeadError(self._away)
        return EngineDeadError(f"{what}: it is {self.state.value}")

    def _on_message(self, message: FromEngine) -> None:
        if not isinstance(message, Ready):
            super()._on_message(message)
            return
        assert self._channel is not None
        self._begin()
        self._watch = asyncio.create_task(self._watch_for_hangs(self._channel))
        if not self._first.done():
            self._first.set_result(message.info)
