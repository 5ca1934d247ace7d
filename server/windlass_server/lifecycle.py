"""From start to exit: listen, load, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from windlass.errors import EngineError, WindlassError
from windlass.progress import ProgressBar
from windlass_server.app import create_app
from windlass_server.console import print_ready, ready_text
from windlass_server.http_protocol import bound_protocol
from windlass_server.logs import configure_logging, log_stats
from windlass_server.middleware import MAX_HEAD_BYTES
from windlass_server.models.served_model import StartEngine
from windlass_server.operations.tls import Tls
from windlass_server.processes.peers import Peers
from windlass_server.settings import ServerSettings
from windlass_server.state import ServerState

if TYPE_CHECKING:
    from starlette.types import ASGIApp

logger = logging.getLogger(__name__)

_GRACE = 2.0
"""Seconds in which the last error events may still be written."""

_KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than clients keep theirs, so that a request
never meets a connection that closes."""
_WATCH_INTERVAL = 1.0


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
    scheme = "https" if settings.operations.tls else "http"
    if settings.uds:
        return f"{scheme}://localhost"
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: `Lifecycle` decides what a signal means."""

    def __init__(self, config: uvicorn.Config, tls: Tls | None) -> None:
        super().__init__(config)
        self.tls = tls

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def http_server(app: ASGIApp, settings: ServerSettings) -> HttpServer:
    """Return the HTTP server for `app`, strict and quiet.

    Raises:
        ConfigError: a file of TLS cannot be used.
    """
    tls = Tls(settings.operations.tls) if settings.operations.tls else None
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
        ssl_context_factory=(lambda *_: tls.context) if tls else None,
    )
    return HttpServer(config, tls)


class Lifecycle:
    """One server from its first to its last moment."""

    def __init__(
        self, settings: ServerSettings, *start_engines: StartEngine, peers: Peers | None = None
    ) -> None:
        self._settings = settings
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._failure: WindlassError | None = None
        self.state = ServerState(settings, peers)
        models = self.state.models
        models.starters = dict(zip(models.models, start_engines, strict=True))
        self.app = create_app(self.state)
        self._server = http_server(self.app, settings)
        self.tls = self._server.tls

    def signal(self) -> None:
        """Drain on the first call, stop at once on the second."""
        if self._stop.is_set():
            self._hurry.set()
            return
        self.state.draining = True
        self._stop.set()

    def read_files_again(self) -> None:
        """Take new certificates and keys; what is wrong is logged and the old ones stay."""
        if self.tls is not None:
            self.tls.reload()
        if self._settings.access.api_key_file is not None:
            self.state.access.reload()

    async def run(self, sock: socket.socket) -> None:
        """Serve on `sock` until a signal.

        Raises:
            WindlassError: the engine could not start, or died for good.
        """
        tasks = [asyncio.create_task(self._run_models(address_of(self._settings, sock)))]
        if self._settings.swap.sleep_after is not None:
            tasks.append(asyncio.create_task(self.state.models.unload_idle()))
        if self._settings.log_stats:
            tasks.append(asyncio.create_task(log_stats(self.state)))
        if self.state.batches is not None:
            tasks.append(asyncio.create_task(self.state.batches.work(self.app, self.state)))
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
            await self.state.models.close()
            await serving
            if self.state.tracer is not None:
                await asyncio.to_thread(self.state.tracer.close)
            if self.state.batches is not None:
                self.state.batches.close()
            self.give_address_back()
        if self._failure is not None:
            raise self._failure

    def give_address_back(self) -> None:
        """Leave nothing where clients connected."""
        if self._settings.uds:
            Path(self._settings.uds).unlink(missing_ok=True)

    def say_ready(self, address: str) -> None:
        """Tell whoever started this where clients connect."""
        info = self.state.models.default.info
        print_ready(ready_text(self._settings, info, address))

    async def _run_models(self, address: str) -> None:
        """Load the first models, then watch over all; ends only when the server has to."""
        models = self.state.models
        try:
            with ProgressBar() as bar:
                models.progress = progress_to(bar)
                for model in models.models:
                    if model.settings.preload:
                        await models.load(model)
        except WindlassError as exc:
            self._fail(exc)
            return
        finally:
            models.progress = _log_progress
        self.state.serve()
        self.say_ready(address)
        while True:
            await asyncio.sleep(_WATCH_INTERVAL)
            for model in models.models:
                if model.is_down_for_good and len(models.models) == 1:
                    self._fail(EngineError("the engine died too often; the server gives up"))
                    return
                if model.is_down_for_good:
                    logger.error("The engine of %s died too often", model.settings.name)
                    await models.unload(model, abort=True)

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
        await self.state.models.end_loads()
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                await self.state.wait_idle()


def progress_to(bar: ProgressBar) -> Callable[[str, float], None]:
    """Report to the bar, and to the log once for each new thing that is loaded."""
    seen: set[str] = set()

    def report(what: str, share: float) -> None:
        bar.report(what, share)
        if what not in seen:
            seen.add(what)
            logger.info("%s", what)

    return report


def _log_progress(what: str, share: float) -> None:
    logger.debug("%s: %.0f %%", what, share * 100)


def serve(settings: ServerSettings, *start_engines: StartEngine) -> int:
    """Serve until a signal; returns the exit code. `start_engines` has one for each model.

    Raises:
        WindlassError: the address cannot be used, or the engine failed for good.
    """
    configure_logging(settings.log_format)
    sock = listen(settings)

    async def main() -> None:
        await until_signal(Lifecycle(settings, *start_engines), sock)

    asyncio.run(main())
    return 0


def reads_files_again(settings: ServerSettings) -> bool:
    """Whether there are certificates or a key file, which may be replaced."""
    return settings.operations.tls is not None or settings.access.api_key_file is not None


async def until_signal(lifecycle: Lifecycle, sock: socket.socket) -> None:
    """Run `lifecycle` on `sock`, with signals going to it; raises what `run` raises."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lifecycle.signal)
    if lifecycle.tls is not None:
        lifecycle.tls.warn_of_dates()
    if reads_files_again(lifecycle.state.settings):
        loop.add_signal_handler(signal.SIGHUP, lifecycle.read_files_again)
    await lifecycle.run(sock)
