"""One life of an API process, from start to exit, as its supervisor sees it."""

from __future__ import annotations

import asyncio
import logging
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from contextlib import suppress

import msgspec

from windlass.engine.process import describe_exit
from windlass.pipe import frame, receive_message
from windlass_server.processes.control import FromApiProcess, Start, ToApiProcess

logger = logging.getLogger(__name__)

_COMMAND = (sys.executable, "-P", "-m", "windlass_server.processes.api_process")


class ApiProcess:
    """A process that was started with `start`; `on_message` gets what it says."""

    def __init__(
        self,
        start: Start,
        process: asyncio.subprocess.Process,
        on_message: Callable[[ApiProcess, FromApiProcess], None],
    ) -> None:
        self.index = start.place.index
        self.front_end = start.front_end
        self.serving = False
        self._process = process
        self._on_message = on_message
        self.send(start)

    @classmethod
    async def launch(
        cls, start: Start, on_message: Callable[[ApiProcess, FromApiProcess], None]
    ) -> ApiProcess:
        """Start a process; it watches its standard input, whose end says that we are gone."""
        process = await asyncio.create_subprocess_exec(
            *_COMMAND,
            stdin=PIPE,
            stdout=PIPE,
            pass_fds=(start.listener,),
            # A terminal's Ctrl-C is for the supervisor, which tells its processes.
            process_group=0,
        )
        return cls(start, process, on_message)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, message: ToApiProcess) -> None:
        """Send without waiting; what a dead process cannot take is lost with it."""
        assert self._process.stdin is not None
        self._process.stdin.write(frame(msgspec.msgpack.encode(message)))

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def run(self) -> str:
        """Listen to the process until it has ended; returns how."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        decoder = msgspec.msgpack.Decoder(FromApiProcess)
        with suppress(EOFError):
            while True:
                self._on_message(self, decoder.decode(await receive_message(self._process.stdout)))
        code = await self._process.wait()
        self._process.stdin.close()
        return describe_exit(code)
