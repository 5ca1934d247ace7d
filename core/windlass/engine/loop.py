"""The loop of the engine process: receive, step, send, and sleep when there is nothing to do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from windlass.config import ModelInfo
from windlass.engine.front_ends import FrontEnd, FrontEnds
from windlass.engine.ipc import (
    Abort,
    AddRequests,
    Attach,
    Detach,
    EngineChannel,
    Hello,
    Inspect,
    Inspected,
    PrefixCacheReset,
    Ready,
    RequestRejected,
    ResetPrefixCache,
    Shutdown,
)
from windlass.engine.outputs import EngineStats, SequenceOutput
from windlass.engine.view import EngineView
from windlass.errors import RequestError
from windlass.request import Request

logger = logging.getLogger(__name__)


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
    """Serves front ends until their owner says `Shutdown`.

    It waits for messages without polling when the engine is idle and only looks for them between
    steps when it is busy. A step's news travel as one message to each front end that they concern;
    without news a front end still hears once per second that steps end, and once when the engine
    falls idle.
    """

    def __init__(
        self,
        engine: SteppingEngine,
        channel: EngineChannel,
        info: ModelInfo,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._info = info
        self._clock = clock
        self._running = True
        self._front_ends = FrontEnds(channel)
        self._handlers: dict[type, Callable[..., None]] = {
            Hello: self._on_hello,
            AddRequests: self._on_add_requests,
            Abort: self._on_abort,
            ResetPrefixCache: self._on_reset_prefix_cache,
            Inspect: self._on_inspect,
            Attach: self._on_attach,
            Detach: self._on_detach,
            Shutdown: self._on_shutdown,
        }

    def run(self) -> None:
        """Serve; what a step raises ends the loop, for the engine contains what it can."""
        try:
            while self._running:
                if self._engine.has_work:
                    self._send_news(self._engine.step())
                else:
                    self._send_idle_stats()
                    self._front_ends.wait()
                for front_end in self._front_ends.all:
                    self._receive(front_end)
        finally:
            self._front_ends.close_attached()

    def _send_news(self, outputs: list[SequenceOutput]) -> None:
        now, stats = self._clock(), None
        for front_end, share in self._front_ends.split(outputs):
            if share or front_end.is_due(now):
                stats = stats or self._engine.stats()
                front_end.tell(share, stats, now)

    def _send_idle_stats(self) -> None:
        stats, now = self._engine.stats(), self._clock()
        for front_end in self._front_ends.all:
            front_end.tell_idle(stats, now)

    def _receive(self, front_end: FrontEnd) -> None:
        channel = front_end.channel
        while self._running and channel.pending():
            message = channel.receive(wait=False)
            if message is not None:
                self._handlers[type(message)](message, front_end)

    def _on_hello(self, _: Hello, __: FrontEnd) -> None:
        logger.warning("The engine is already loaded: a second Hello was ignored")

    def _on_add_requests(self, message: AddRequests, sender: FrontEnd) -> None:
        for request in message.requests:
            try:
                self._engine.add_request(request)
            except RequestError as error:
                sender.send(
                    RequestRejected(request.request_id, error.message, error.param, error.code)
                )
            else:
                self._front_ends.add(request, sender)

    def _on_abort(self, message: Abort, _: FrontEnd) -> None:
        self._engine.abort(message.request_ids)

    def _on_reset_prefix_cache(self, _: ResetPrefixCache, sender: FrontEnd) -> None:
        sender.send(PrefixCacheReset(done=bool(self._engine.reset_prefix_cache())))

    def _on_inspect(self, _: Inspect, sender: FrontEnd) -> None:
        sender.send(Inspected(self._engine.view()))

    def _on_attach(self, message: Attach, _: FrontEnd) -> None:
        self._forget(message.front_end)
        self._front_ends.attach(message.front_end, message.endpoint, Ready(self._info))

    def _on_detach(self, message: Detach, _: FrontEnd) -> None:
        self._forget(message.front_end)

    def _forget(self, front_end: int) -> None:
        self._engine.abort(self._front_ends.detach(front_end))

    def _on_shutdown(self, _: Shutdown, __: FrontEnd) -> None:
        self._running = False
