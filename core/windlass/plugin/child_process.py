"""Runs a question to a third party's plugin in a process of its own.

A copy of this process (a fork) answers within milliseconds, for Python and Windlass are loaded in
it. It is taken where a copy is safe: on Linux, in a process that has one thread and has not
imported torch. A lock that another thread holds would be held for ever in the copy, and a device
library that was initialised does not survive a fork. Elsewhere a fresh interpreter is started.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import IO, NoReturn

_REAP_SECONDS = 1.0


class ChildProcess(ABC):
    """A process that was started, the leader of a session of its own."""

    pid: int

    @abstractmethod
    def wait(self, seconds: float) -> int | None:
        """Its exit status, negative for a signal; None when it still runs after that time."""

    def end(self) -> None:
        """Kill it and what it started, as far as that is in its session."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:  # a copy that has not yet become a leader, or is gone
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        # Stuck inside a driver it may stay: then the kernel ends it when it can.
        self.wait(_REAP_SECONDS)


def start(
    main: Callable[[], None], command: list[str], output: IO[bytes], errors: IO[bytes]
) -> ChildProcess:
    """Run `main` in a copy of this process where that is safe, else `command`, which does the same.

    Files, not pipes, for a process that a plugin left behind could keep a pipe open.

    Raises:
        OSError: no process can be started.
    """
    if may_fork():
        return _Forked(main, output, errors)
    return _Spawned(command, output, errors)


def may_fork() -> bool:
    """Whether a copy of this process is safe, and its end can be waited for."""
    if "torch" in sys.modules or not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


class _Spawned(ChildProcess):
    def __init__(self, command: list[str], output: IO[bytes], errors: IO[bytes]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def wait(self, seconds: float) -> int | None:
        """Its exit status; None when it still runs."""
        try:
            return self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return None


class _Forked(ChildProcess):
    def __init__(self, main: Callable[[], None], output: IO[bytes], errors: IO[bytes]) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):  # none, gone, or closed
                stream.flush()  # what is left in its buffer the copy could write too
        self.pid = os.fork()
        if self.pid == 0:
            _run_copy(main, output.fileno(), errors.fileno())
        self._status: int | None = None

    def wait(self, seconds: float) -> int | None:
        """Its exit status; None when it still runs."""
        if self._status is None and self._ended_within(seconds):
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def _ended_within(self, seconds: float) -> bool:
        handle = os.pidfd_open(self.pid)
        try:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            return bool(poll.poll(1e3 * max(0.0, seconds)))
        finally:
            os.close(handle)


def _run_copy(main: Callable[[], None], output: int, errors: int) -> NoReturn:
    """Body of the copy: nothing that belongs to the host is used, and nothing is cleaned up."""
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(errors, 2)
        _close_files_of_the_host()
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - lives as long as the process
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        main()
    except BaseException:  # noqa: BLE001 - the process ends here, and says why
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)


def _close_files_of_the_host() -> None:
    """What a plugin leaves running must hold neither sockets nor files of the host."""
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2:
            try:
                os.close(number)
            except OSError:  # the listing's own
                continue
