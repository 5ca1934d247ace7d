"""From start to exit: listen, load, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from windlass.errors import EngineDeadError, EngineError, WindlassError
from windlass.progress import ProgressBar
from windlass_server.app import create_app
from windlass_server.console import print_ready, ready_text
from windlass_server.http_protocol import bound_protocol
from windlass_server.logs import configure_logging, log_stats
from windlass_server.middleware import MAX_HEAD_BYTES
from windlass_server.settings import ServerSettings
from windlass_server.state import ServerState

if TYPE_CHECKING:
    from fastapi import FastAPI

    from windlass_server.engine import Engine

logger = logging.getLogger(__name__)

_GRACE = 2.0
"""Seconds in which the last error events may still be written."""

_KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than clients keep theirs, so that a request
never meets a connection that closes."""
_WATCH_INTERVAL = 1.0

StartEngine = Callable[[Callable[[str, float], None]], Awaitable["Engine"]]
"""Starts the engine; gets the function that is told (what is loaded, share done)."""


def listen(settings: ServerSettings) -> socket.socket:
    """Return the bound listening socket.

    Raises:
        WindlassError: the address or port cannot be used.
    """
    if settings.uds:
        return _listen_on_path(Path(settings.uds))
    where = f"{settings.host}:{settings.port}"
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        return socket.create_server(address, family=family, backlog=2048)
    except OSError as exc:
        reason = (exc.strerror or "unknown host").partition(" (")[0]
        raise WindlassError(
            f"cannot listen on {where}: {reason}; choose another with --host or --port "
            "(--port 0 takes any free one)"
        ) from exc


def _listen_on_path(path: Path) -> socket.socket:
    """Listen on a Unix socket that only this user may open; a dead one in the way is removed."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _is_live(path):
            path.unlink()
        before = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        sock.listen(2048)
    except OSError as exc:
        sock.close()
        raise WindlassError(f"cannot listen on {path}: {exc.strerror or exc}") from exc
    return sock


def _is_live(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def address_of(settings: ServerSettings, sock: socket.socket) -> str:
    """Return the URL that clients connect to."""
    if settings.uds:
        return "http://localhost"
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: `Lifecycle` decides what a signal means."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def http_server(app: FastAPI, settings: ServerSettings) -> HttpServer:
    """Return the HTTP server for `app`, strict and quiet."""
    config = uvicorn.Config(
        app,
        http=bound_protocol(settings),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        root_path=settings.root_path.rstrip("/"),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(_GRACE),
    )
    return HttpServer(config)


class Lifecycle:
    """One server from its first to its last moment."""

    def __init__(self, settings: ServerSettings, start_engine: StartEngine) -> None:
        self._settings = settings
        self._start_engine = start_engine
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._failure: WindlassError | None = None
        self.state = ServerState(settings)
        self._server = http_server(create_app(self.state), settings)

    def signal(self) -> None:
        """Drain on the first call, stop at once on the second."""
        if self._stop.is_set():
            self._hurry.set()
            return
        self.state.draining = True
        self._stop.set()

    async def run(self, sock: socket.socket) -> None:
        """Serve on `sock` until a signal.

        Raises:
            WindlassError: the engine could not start, or died for good.
        """
        tasks = [asyncio.create_task(self._run_engine(address_of(self._settings, sock)))]
        if self._settings.log_stats:
            tasks.append(asyncio.create_task(log_stats(self.state)))
        serving = asyncio.create_task(self._server.serve(sockets=[sock]))
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((serving, stop), return_when=asyncio.FIRST_COMPLETED)
            await self._drain()
        finally:
            self._server.should_exit = True
            for task in (*tasks, stop):
                task.cancel()
            await asyncio.gather(*tasks, stop, return_exceptions=True)
            self.state.renderer.close()
            if self.state.engine is not None:
                await self.state.engine.shutdown()
            await serving
            if self._settings.uds:
                Path(self._settings.uds).unlink(missing_ok=True)
        if self._failure is not None:
            raise self._failure

    async def _run_engine(self, address: str) -> None:
        """Load the model, then watch over it; ends only when the server has to."""
        try:
            with ProgressBar() as bar:
                engine = await self._start_engine(_progress(bar))
        except WindlassError as exc:
            self._fail(exc)
            return
        except Exception as exc:
            logger.debug("The engine did not start", exc_info=True)
            reason = f"{type(exc).__name__}: {exc}"
            self._fail(EngineError(f"the engine could not start: {reason}"))
            return
        try:
            self.state.serve(engine)
        except WindlassError as exc:
            await engine.shutdown()
            self._fail(exc)
            return
        print_ready(ready_text(self._settings, engine.info, address))
        while not _is_down_for_good(engine):
            await asyncio.sleep(_WATCH_INTERVAL)
        self._fail(EngineError("the engine died too often; the server gives up"))

    def _fail(self, error: WindlassError) -> None:
        self._failure = error
        self._hurry.set()
        self.signal()

    async def _drain(self) -> None:
        """Let what runs finish, then end it with an error; a second signal skips the wait."""
        if self.state.in_flight and not self._hurry.is_set():
            logger.info("Shutting down: %d requests are finishing", self.state.in_flight)
            waits = [
                asyncio.create_task(self._hurry.wait()),
                asyncio.create_task(self.state.wait_idle()),
            ]
            timeout = self._settings.shutdown_timeout
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        self.state.stopping.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                await self.state.wait_idle()


def _progress(bar: ProgressBar) -> Callable[[str, float], None]:
    """Report to the bar, and to the log once for each new thing that is loaded."""
    seen: set[str] = set()

    def report(what: str, share: float) -> None:
        bar.report(what, share)
        if what not in seen:
            seen.add(what)
            logger.info("%s", what)

    return report


def _is_down_for_good(engine: Engine) -> bool:
    if engine.is_ready:
        return False
    try:
        engine.check_health()
    except EngineDeadError as exc:
        return exc.retry_after is None
    return False


def serve(settings: ServerSettings, start_engine: StartEngine) -> int:
    """Serve until a signal; returns the exit code.

    Raises:
        WindlassError: the address cannot be used, or the engine failed for good.
    """
    configure_logging(settings.log_format)
    sock = listen(settings)

    async def main() -> None:
        lifecycle = Lifecycle(settings, start_engine)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, lifecycle.signal)
        await lifecycle.run(sock)

    asyncio.run(main())
    return 0
