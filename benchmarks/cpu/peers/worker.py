"""A worker process, seen from the script."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class WorkerError(Exception):
    """The worker said no, died, or did not answer in time."""


class Worker:
    """Runs a module of this package in an environment of its own.

    Between `resume` and `pause` it may use the processors; outside of them it is stopped, so that
    an engine whose threads spin while they wait takes nothing from the others.
    """

    def __init__(
        self, command: Sequence[str], variables: Mapping[str, str], log: Path, name: str
    ) -> None:
        self.name, self.log = name, log
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | dict(variables),
                text=True,
                start_new_session=True,
            )
        self._paused: tuple[float, float] | None = None
        self._paused_seconds = self._paused_use = 0.0

    def ask(self, command: str, payload: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Raises:
            WorkerError: with the worker's reason, or that it ended or took longer than `timeout`.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"command": command, **payload}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout):
                self.kill()
                raise WorkerError(f"no answer to {command!r} within {timeout:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise WorkerError(answer["error"])
        return answer

    def pause(self) -> None:
        """Stop all threads of the worker where they are."""
        self._signal(signal.SIGSTOP)
        self._paused = time.perf_counter(), self._processor_seconds()

    def resume(self) -> None:
        """Let it go on."""
        if self._paused:
            since, used = self._paused
            self._paused_seconds += time.perf_counter() - since
            self._paused_use += self._processor_seconds() - used
            self._paused = None
        self._signal(signal.SIGCONT)

    @property
    def idle_use(self) -> float:
        """Share of one processor that it took while it was paused."""
        return self._paused_use / self._paused_seconds if self._paused_seconds else 0.0

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        self._signal(signal.SIGCONT)
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate(timeout=10)
        self.kill()

    def kill(self) -> None:
        """End the process and its children at once."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _ended(self) -> WorkerError:
        code = self._process.wait()
        return WorkerError(f"the process ended with code {code}; its log is {self.log}")

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _processor_seconds(self) -> float:
        try:
            text = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return 0.0
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / CLOCK_TICKS
