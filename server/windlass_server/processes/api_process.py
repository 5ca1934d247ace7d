"""An API process: `python -m windlass_server.processes.api_process`.

It is started by `windlass_server.processes.supervisor`, never by hand. It talks with its supervisor
over its standard streams; the end of its standard input says that the supervisor is gone.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import aclosing, asynccontextmanager
from typing import IO, TYPE_CHECKING

import msgspec

from windlass.async_engine import AsyncEngine
from windlass.config import EngineConfig
from windlass.engine.attached import AttachedClient
from windlass.engine.ipc import Failed
from windlass.engine.link import EngineListener
from windlass.errors import WindlassError
from windlass.pipe import receive_message, write_message
from windlass_server.lifecycle import Lifecycle, until_signal
from windlass_server.logs import configure_logging
from windlass_server.processes.control import (
    AttachMe,
    EngineDown,
    EngineHangs,
    EngineUp,
    FromApiProcess,
    Serving,
    Start,
    ToApiProcess,
)
from windlass_server.processes.peers import Peers
from windlass_server.processes.private_socket import answering_peers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Supervisor:
    """The supervisor as its API process sees it; an `EngineOwner`."""

    def __init__(self, reader: asyncio.StreamReader, writer: IO[bytes]) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder: msgspec.msgpack.Decoder[ToApiProcess] = msgspec.msgpack.Decoder(ToApiProcess)
        self._client: AttachedClient | None = None
        self._engine: EngineUp | EngineDown | None = None

    @classmethod
    async def connect(cls) -> Supervisor:
        """Take the standard streams; what others write to standard output goes to the log."""
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        writer = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        return cls(reader, writer)

    async def receive(self) -> ToApiProcess:
        """Return what it says next; raises EOFError when it is gone."""
        return self._decoder.decode(await receive_message(self._reader))

    def say(self, message: FromApiProcess) -> None:
        """Tell it something; what it cannot hear any more is lost."""
        try:
            write_message(self._writer, msgspec.msgpack.encode(message))
        except BrokenPipeError:
            return

    async def listen(self, when_gone: Callable[[], None]) -> None:
        """Do what it says, until it is gone."""
        while True:
            try:
                message = await self.receive()
            except EOFError:
                when_gone()
                return
            if not isinstance(message, Start):
                self._engine = message
                self._tell_client()

    def client(self, config: EngineConfig, listener: EngineListener) -> AttachedClient:
        """Return a link to the supervisor's engine."""
        self._client = AttachedClient(config, listener, self)
        self._tell_client()
        return self._client

    def _tell_client(self) -> None:
        match self._engine:
            case EngineUp(pid=pid, restarts=restarts) if self._client is not None:
                self._client.engine_is_up(pid, restarts)
            case EngineDown(message=text, retry_after=seconds) if self._client is not None:
                self._client.engine_is_down(text, seconds)

    def attach(self, endpoint: str) -> None:
        """Have the engine connect to `endpoint`."""
        self.say(AttachMe(endpoint))

    def report_hang(self, cause: str) -> None:
        """Say that the engine has to be replaced."""
        self.say(EngineHangs(cause))


class ApiLifecycle(Lifecycle):
    """A server whose address belongs to its supervisor, which also says that it is ready."""

    def __init__(self, start: Start, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

        async def start_engine(_: object) -> AsyncEngine:
            config = start.config
            return await AsyncEngine.over(
                config,
                lambda listener: supervisor.client(config, listener),
                id_prefix=f"{start.front_end}:",
            )

        self.peers = Peers(start.place)
        super().__init__(start.settings, start_engine, peers=self.peers)
        self.state.created = start.place.created

    def say_ready(self, address: str) -> None:
        """Tell the supervisor."""
        del address
        self._supervisor.say(Serving())

    def give_address_back(self) -> None:
        """Nothing: others listen on it too."""


async def _live() -> int:
    supervisor = await Supervisor.connect()
    start = await supervisor.receive()
    assert isinstance(start, Start)
    configure_logging(start.settings.log_format)

    def orphaned() -> None:
        # The engine is gone with the supervisor: nothing that runs here can be finished.
        shutil.rmtree(start.place.folder, ignore_errors=True)
        os._exit(0)

    try:
        lifecycle = ApiLifecycle(start, supervisor)
        async with (
            _listening(supervisor, orphaned),
            aclosing(lifecycle.peers),
            answering_peers(lifecycle.app, start),
        ):
            await until_signal(lifecycle, socket.socket(fileno=start.listener))
    except WindlassError as error:
        supervisor.say(Failed(message=str(error), error=type(error).__name__))
        return 1
    return 0


@asynccontextmanager
async def _listening(supervisor: Supervisor, when_gone: Callable[[], None]) -> AsyncIterator[None]:
    task = asyncio.create_task(supervisor.listen(when_gone))
    try:
        yield
    finally:
        task.cancel()


if __name__ == "__main__":
    sys.exit(asyncio.run(_live()))
