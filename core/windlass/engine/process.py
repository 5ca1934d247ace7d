"""One life of an engine process, from start to exit, as its front end sees it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from windlass.config import EngineConfig
from windlass.engine.ipc import ClientChannel, FromEngine, Hello, Shutdown, ToEngine
from windlass.log_lines import configured_format

DEFAULT_RUNNER_FACTORY = "windlass.executor.build:build_runner"

_STACK_DUMP_SECONDS = 0.5


class EngineProcess:
    """One life of an engine process, from start to exit."""

    def __init__(
        self,
        config: EngineConfig,
        runner_factory: str,
        on_message: Callable[[FromEngine], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = loop.create_future()
        self._channel = ClientChannel(on_message, greeting=Hello(config))
        try:
            self._process = subprocess.Popen(
                self._command(runner_factory),
                # The engine watches this pipe: its end says that this process is gone.
                stdin=subprocess.PIPE,
                # Standard output belongs to the front end's user.
                stdout=2,
                process_group=0,
            )
        except BaseException:
            self._channel.close()
            raise
        threading.Thread(
            target=self._wait, args=(loop,), name="engine-process-wait", daemon=True
        ).start()

    def _command(self, runner_factory: str) -> list[str]:
        # -P: the working directory is no place to import from.
        module = "windlass.executor.engine_process"
        endpoint = self._channel.endpoint
        options = ["--runner", runner_factory, "--log-format", configured_format()]
        return [sys.executable, "-P", "-m", module, endpoint, *options]

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def malformed(self) -> int:
        """Frames from the engine that were dropped."""
        return self._channel.malformed

    def send(self, message: ToEngine) -> None:
        """Send without waiting."""
        self._channel.send(message)

    def drain(self) -> None:
        """Deliver every message that has arrived."""
        self._channel.drain_all()

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        code = self._process.wait()
        with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            loop.call_soon_threadsafe(self._on_exit, code)

    def _on_exit(self, code: int) -> None:
        self.drain()
        if not self.exited.done():
            self.exited.set_result(code)

    async def kill_with_stacks(self) -> None:
        """Let a hung process print its stacks, then kill it."""
        self._process.send_signal(signal.SIGUSR1)
        await asyncio.wait({self.exited}, timeout=_STACK_DUMP_SECONDS)
        self._process.kill()

    async def stop(self, grace: float) -> None:
        """End the process: ask, terminate after `grace` seconds, kill after as long again."""
        try:
            self.send(Shutdown())
            await asyncio.wait({self.exited}, timeout=grace)
            if not self.exited.done():
                self._process.terminate()
                await asyncio.wait({self.exited}, timeout=grace)
        finally:
            self._process.kill()
        await asyncio.wait({self.exited})
        self.release()

    def release(self) -> None:
        """Give back the socket and the pipe of a process that has ended."""
        self._channel.close()
        if self._process.stdin is not None:
            self._process.stdin.close()


def describe_exit(code: int) -> str:
    """Return how a process ended, from `subprocess`'s return code."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
