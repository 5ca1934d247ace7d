"""The loop of the engine process: receive, step, send, and sleep when there is nothing to do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from windlass.engine.ipc import (
    Abort,
    AddRequests,
    EngineChannel,
    Hello,
    Inspect,
    Inspected,
    Outputs,
    PrefixCacheReset,
    RequestRejected,
    ResetPrefixCache,
    Shutdown,
    ToEngine,
)
from windlass.engine.outputs import EngineStats, SequenceOutput
from windlass.engine.view import EngineView
from windlass.errors import RequestError
from windlass.request import Request

logger = logging.getLogger(__name__)

_HEARTBEAT_SECONDS = 1.0


class SteppingEngine(Protocol):
    """What the loop needs of `EngineCore` and of `PoolingCore`."""

    @property
    def has_work(self) -> bool:
        """Whether a step would do something."""
        ...

    def add_request(self, request: Request) -> None:
        """Queue a sequence; raises RequestError when it is wrong."""
        ...

    def abort(self, request_ids: Iterable[str]) -> object:
        """Forget sequences, known or not."""
        ...

    def step(self) -> list[SequenceOutput]:
        """Run one step and return its news."""
        ...

    def stats(self) -> EngineStats:
        """Return gauges and counters."""
        ...

    def reset_prefix_cache(self) -> bool:
        """Drop cached blocks and say whether that was possible."""
        ...

    def view(self) -> EngineView:
        """Return what stands where now."""
        ...


class EngineLoop:
    """Serves one front end until it says `Shutdown`.

    It waits for messages without polling when the engine is idle and only looks for them between
    steps when it is busy. A step's news travel as one message; without news the front end still
    hears once per second that steps end, and once when the engine falls idle.
    """

    def __init__(
        self,
        engine: SteppingEngine,
        channel: EngineChannel,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._channel = channel
        self._clock = clock
        self._running = True
        self._sent_stats = EngineStats()
        self._sent_at = 0.0
        self._handlers: dict[type, Callable[..., None]] = {
            Hello: self._on_hello,
            AddRequests: self._on_add_requests,
            Abort: self._on_abort,
            ResetPrefixCache: self._on_reset_prefix_cache,
            Inspect: self._on_inspect,
            Shutdown: self._on_shutdown,
        }

    def run(self) -> None:
        """Serve; what a step raises ends the loop, for the engine contains what it can."""
        while self._running:
            if self._engine.has_work:
                self._send_news(self._engine.step())
            else:
                self._send_idle_stats()
                self._handle(self._channel.receive(wait=True))
            while self._running and self._channel.pending():
                self._handle(self._channel.receive(wait=False))

    def _send_news(self, outputs: list[SequenceOutput]) -> None:
        now = self._clock()
        if outputs or now - self._sent_at >= _HEARTBEAT_SECONDS:
            self._send(outputs, self._engine.stats(), now)

    def _send_idle_stats(self) -> None:
        stats = self._engine.stats()
        if stats != self._sent_stats:
            self._send([], stats, self._clock())

    def _send(self, outputs: list[SequenceOutput], stats: EngineStats, now: float) -> None:
        self._channel.send(Outputs(outputs=outputs, stats=stats))
        self._sent_stats, self._sent_at = stats, now

    def _handle(self, message: ToEngine | None) -> None:
        if message is not None:
            self._handlers[type(message)](message)

    def _on_hello(self, _: Hello) -> None:
        logger.warning("The engine is already loaded: a second Hello was ignored")

    def _on_add_requests(self, message: AddRequests) -> None:
        for request in message.requests:
            try:
                self._engine.add_request(request)
            except RequestError as error:
                self._channel.send(
                    RequestRejected(request.request_id, error.message, error.param, error.code)
                )

    def _on_abort(self, message: Abort) -> None:
        self._engine.abort(message.request_ids)

    def _on_reset_prefix_cache(self, _: ResetPrefixCache) -> None:
        self._channel.send(PrefixCacheReset(done=bool(self._engine.reset_prefix_cache())))

    def _on_inspect(self, _: Inspect) -> None:
        self._channel.send(Inspected(self._engine.view()))

    def _on_shutdown(self, _: Shutdown) -> None:
        self._running = False
