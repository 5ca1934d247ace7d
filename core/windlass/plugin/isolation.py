"""Examines a third party's plugin in a process of its own.

A driver that hangs or a library that crashes on import takes that process down, not the host.
The host imports the plugin only after it was selected.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import EntryPoint
from typing import IO, Generic, TypeVar

import msgspec

from windlass.plugin.child_process import ChildProcess, start
from windlass.plugin.examine import Findings, OfferedOps, examine, offered_ops
from windlass.plugin.spec import Availability, Status

Reply = TypeVar("Reply")
OpsFor = tuple[str, str]
"""A backend and an architecture, to ask for op providers."""

_BOOT = """\
import json, sys
request = json.loads(sys.argv[1])
sys.path[:] = request["path"]
from windlass.plugin.isolation import child_main
child_main(request["name"], request["value"], request["ops_for"])
"""


class Question(Generic[Reply]):
    """A question to a plugin that its process is answering; ask it, then wait for `answer`.

    Used in a `with` statement, whose end also ends the process.
    """

    def __init__(
        self,
        name: str,
        value: str,
        ops_for: OpsFor | None,
        kind: type[Reply],
        no_reply: Callable[[str], Reply],
        timeout: float,
    ) -> None:
        request = {"path": sys.path, "name": name, "value": value, "ops_for": ops_for}
        command = [sys.executable, "-c", _BOOT, json.dumps(request)]
        self._kind, self._no_reply, self._timeout = kind, no_reply, timeout
        self._begun = time.monotonic()
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._child: ChildProcess | None = None
        self._problem = ""
        try:
            self._child = start(
                partial(child_main, name, value, ops_for), command, self._output, self._errors
            )
        except OSError as exc:
            self._problem = f"no process could be started to probe it: {exc}"

    def __enter__(self) -> Question[Reply]:
        return self

    def __exit__(self, *error: object) -> None:
        if self._child is not None and self._child.wait(0.0) is None:
            self._child.end()
        self._output.close()
        self._errors.close()

    def answer(self) -> Reply:
        """What the plugin said, or what stands for a process that ended or hung."""
        if self._child is None:
            return self._no_reply(self._problem)
        status = self._child.wait(self._begun + self._timeout - time.monotonic())
        if status is None:
            return self._no_reply(f"probe did not answer within {self._timeout:g} s")
        if status != 0:
            return self._no_reply(_how_it_ended(status, self._errors))
        self._output.seek(0)
        try:
            return msgspec.json.decode(self._output.read(), type=self._kind)
        except msgspec.MsgspecError as exc:
            return self._no_reply(f"probe ended without an answer: {exc}")


def ask_findings(name: str, value: str, *, timeout: float) -> Question[Findings]:
    """`examine` for the entry point value `value` in a child process, in at most `timeout` s."""
    return Question(name, value, None, Findings, _broken, timeout)


def ask_ops(name: str, value: str, ops_for: OpsFor, *, timeout: float) -> Question[OfferedOps]:
    """`offered_ops` for the entry point value `value` in a child process."""

    def no_reply(problem: str) -> OfferedOps:
        return OfferedOps(problem=problem)

    return Question(name, value, ops_for, OfferedOps, no_reply, timeout)


def child_main(name: str, value: str, ops_for: OpsFor | None) -> None:
    """Body of the child: one answer as JSON on its standard output, the plugin's prints aside."""
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    load = EntryPoint(name=name, value=value, group="").load
    answer = examine(name, load) if ops_for is None else offered_ops(name, load, *ops_for)
    with os.fdopen(answers, "wb") as stream:
        stream.write(msgspec.json.encode(answer))
    sys.stderr.flush()
    os._exit(0)  # a plugin's threads and exit handlers could keep the process


def _broken(problem: str) -> Findings:
    broken = Availability(
        status=Status.BROKEN, reason=problem, hint="update or uninstall the plugin, or disable it"
    )
    return Findings(availability=broken)


def _how_it_ended(returncode: int, errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    last_words = f": {lines[-1]}" if lines else ""
    if returncode >= 0:
        return f"probe ended with exit status {returncode}{last_words}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    return f"probe was ended by {name}{last_words}"
