"""The parent of several API processes: it owns the listening socket and the engine, no HTTP.

It keeps all of them alive. When it dies itself, they and the engine end, each by the end of the
pipe on its standard input.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import socket
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from windlass.config import EngineConfig, ModelInfo
from windlass.engine.client import EngineClient, start_error
from windlass.engine.ipc import Failed, Outputs, RequestRejected, SocketFolder
from windlass.engine.link import State
from windlass.engine.process import DEFAULT_RUNNER_FACTORY
from windlass.engine.restart import Deaths, RestartPolicy
from windlass.errors import EngineDeadError, EngineError, WindlassError
from windlass.progress import ProgressBar
from windlass_server.console import print_ready, ready_text
from windlass_server.lifecycle import address_of, listen, progress_to, reads_files_again
from windlass_server.logs import configure_logging
from windlass_server.processes.control import (
    AttachMe,
    EngineDown,
    EngineHangs,
    EngineUp,
    FromApiProcess,
    Place,
    Serving,
    Start,
)
from windlass_server.processes.process import ApiProcess
from windlass_server.processes.share import config_of, require_shareable, settings_of
from windlass_server.settings import ServerSettings

logger = logging.getLogger(__name__)

_PATIENCE = 10.0
"""Seconds that an API process gets beyond its own limit to end."""
# Others serve meanwhile, so there is no number of deaths at which a process stays down.
_API_POLICY = RestartPolicy(max_deaths=sys.maxsize)


class Supervisor:
    """Several API processes on one engine, from their first to their last moment."""

    has_unfinished = False
    """The engine owes its owner nothing: the API processes ask, and watch for hangs."""

    def __init__(
        self,
        settings: ServerSettings,
        config: EngineConfig,
        sock: socket.socket,
        runner_factory: str = DEFAULT_RUNNER_FACTORY,
    ) -> None:
        self._settings = settings
        self._config = config
        self._sock = sock
        self._count = settings.processes.api_server_count
        self._folder = SocketFolder()
        self._created = int(time.time())
        self._front_ends = itertools.count(1)
        self._processes: dict[int, ApiProcess] = {}
        self._stop = asyncio.Event()
        self._all_serve = asyncio.Event()
        self._failure: WindlassError | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._bar = ProgressBar()
        self._client = EngineClient(
            config,
            self,
            runner_factory=runner_factory,
            progress=progress_to(self._bar),
            on_ready=self._on_engine_ready,
        )

    def stop(self) -> None:
        """Drain on the first call, stop at once on the second."""
        self._stop.set()
        for process in self._processes.values():
            process.signal(signal.SIGTERM)

    def read_files_again(self) -> None:
        """Have all processes take new certificates and keys; those that start read them anyway."""
        for process in self._processes.values():
            if process.serving:
                process.signal(signal.SIGHUP)

    async def run(self) -> None:
        """Serve until a signal.

        Raises:
            WindlassError: the engine or an API process could not start, or the engine died for
                good.
        """
        keepers = [asyncio.create_task(self._keep(index)) for index in range(self._count)]
        starting = asyncio.create_task(self._start())
        try:
            await asyncio.gather(*keepers)
        finally:
            tasks = (starting, *self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._client.close()
            self._folder.remove()
        if self._failure is not None:
            raise self._failure

    async def _start(self) -> None:
        try:
            with self._bar:
                info = await self._client.start()
            await self._all_serve.wait()
        except WindlassError as error:
            self._fail(error)
            return
        except OSError as error:
            self._fail(EngineError(f"the engine could not start: {error}"))
            return
        self._say_ready(info)

    def _say_ready(self, info: ModelInfo) -> None:
        print_ready(ready_text(self._settings, info, address_of(self._settings, self._sock)))

    def _fail(self, error: WindlassError) -> None:
        self._failure = self._failure or error
        self.stop()

    # -- API processes --------------------------------------------------------------------

    async def _keep(self, index: int) -> None:
        """Run one API process after the other until the end."""
        deaths = Deaths(_API_POLICY)
        while not self._stop.is_set():
            try:
                ended = await self._live(index)
            except OSError as error:
                ended = f"it could not be started: {error}"
            if self._stop.is_set():
                return
            if not self._all_serve.is_set():
                what = f"API process {index} ended while it started ({ended})"
                self._fail(EngineError(what))
                return
            delay = deaths.note() or 0.0
            logger.error("API process %d died (%s): it is restarted", index, ended)
            await _wait(self._stop.wait(), delay)

    async def _live(self, index: int) -> str:
        """Run one API process to its end and return how it ended."""
        process = self._processes[index] = await self._launch(index)
        if self._stop.is_set():
            process.signal(signal.SIGTERM)
        try:
            return await self._run(process)
        finally:
            del self._processes[index]
            self._client.detach(process.front_end)

    async def _launch(self, index: int) -> ApiProcess:
        start = Start(
            settings=settings_of(self._settings, index),
            config=config_of(self._config, self._count),
            listener=self._sock.fileno(),
            place=Place(index, self._count, str(self._folder.path), self._created),
            front_end=next(self._front_ends),
        )
        process = await ApiProcess.launch(start, self._on_message)
        if self._client.state is State.READY:
            process.send(self._engine_up())
        return process

    async def _run(self, process: ApiProcess) -> str:
        """Return how a process ended; one that does not end in time after a signal is killed."""
        running = asyncio.create_task(process.run())
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait((running, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not running.done():
            await asyncio.wait((running,), timeout=self._settings.shutdown_timeout + _PATIENCE)
        if not running.done():
            process.signal(signal.SIGKILL)
        return await running

    def _on_message(self, process: ApiProcess, message: FromApiProcess) -> None:
        match message:
            case AttachMe():
                self._client.attach(message.endpoint, process.front_end)
            case EngineHangs():
                hang = asyncio.create_task(self._client.replace_hung(message.cause))
                self._tasks.add(hang)
                hang.add_done_callback(self._tasks.discard)
            case Serving():
                process.serving = True
                if sum(one.serving for one in self._processes.values()) == self._count:
                    self._all_serve.set()
            case Failed() if not self._all_serve.is_set():
                self._fail(start_error(message.error, message.message))
            case Failed():
                logger.error("API process %d: %s", process.index, message.message)

    # -- the engine -----------------------------------------------------------------------

    def _engine_up(self) -> EngineUp:
        assert self._client.pid is not None
        return EngineUp(self._client.pid, self._client.restarts)

    def _on_engine_ready(self) -> None:
        for process in self._processes.values():
            process.send(self._engine_up())

    def on_outputs(self, message: Outputs) -> None:
        """Nothing: the news of steps go to the API processes."""

    def on_rejected(self, message: RequestRejected) -> None:
        """Nothing: only API processes send sequences."""

    def on_death(self, error: EngineDeadError) -> None:
        """Tell all API processes, and end when the engine stays down."""
        for process in self._processes.values():
            process.send(EngineDown(str(error), error.retry_after))
        if error.retry_after is None:
            self._fail(EngineError("the engine died too often; the server gives up"))


async def _wait(what: Awaitable[Any], seconds: float) -> None:
    """Wait for something, at most so long."""
    try:
        async with asyncio.timeout(seconds):
            await what
    except TimeoutError:
        return


def supervise(
    settings: ServerSettings, config: EngineConfig, *, runner_factory: str = DEFAULT_RUNNER_FACTORY
) -> int:
    """Serve with several API processes until a signal; returns the exit code.

    Raises:
        WindlassError: a setting does not fit, the address cannot be used, a process could not
            start, or the engine failed for good.
    """
    require_shareable(settings)
    configure_logging(settings.log_format)
    sock = listen(settings)

    async def main() -> None:
        supervisor = Supervisor(settings, config, sock, runner_factory)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, supervisor.stop)
        if reads_files_again(settings):
            loop.add_signal_handler(signal.SIGHUP, supervisor.read_files_again)
        await supervisor.run()

    try:
        asyncio.run(main())
    finally:
        if settings.uds:
            Path(settings.uds).unlink(missing_ok=True)
    return 0
