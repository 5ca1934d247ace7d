"""Examines a third party's plugin in a process of its own.

A driver that hangs or a library that crashes on import takes that process down, not the host.
The host imports the plugin only after it was selected.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from importlib.metadata import EntryPoint
from typing import IO, TypeVar

import msgspec

from windlass.plugin.examine import Findings, OfferedOps, examine, offered_ops
from windlass.plugin.spec import Availability, Status

Reply = TypeVar("Reply")

_BOOT = """\
import json, sys
request = json.loads(sys.argv[1])
sys.path[:] = request["path"]
from windlass.plugin.isolation import child_main
child_main(request["name"], request["value"], request["ops_for"])
"""
_REAP_SECONDS = 1.0


class _NoReply(Exception):
    """The child ended or was ended without an answer; the text says how."""


def examine_in_child(name: str, value: str, *, timeout: float) -> Findings:
    """`examine` for the entry point value `value` in a child process, in at most `timeout` s."""
    try:
        return _ask(name, value, None, Findings, timeout)
    except _NoReply as exc:
        broken = Availability(
            status=Status.BROKEN,
            reason=str(exc),
            hint="update or uninstall the plugin, or disable it",
        )
        return Findings(availability=broken)


def offered_ops_in_child(
    name: str, value: str, backend: str, arch: str, *, timeout: float
) -> OfferedOps:
    """`offered_ops` for the entry point value `value` in a child process."""
    try:
        return _ask(name, value, (backend, arch), OfferedOps, timeout)
    except _NoReply as exc:
        return OfferedOps(problem=str(exc))


def child_main(name: str, value: str, ops_for: tuple[str, str] | None) -> None:
    """Body of the child: one answer as JSON on its standard output, the plugin's prints aside."""
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    load = EntryPoint(name=name, value=value, group="").load
    answer = examine(name, load) if ops_for is None else offered_ops(name, load, *ops_for)
    with os.fdopen(answers, "wb") as stream:
        stream.write(msgspec.json.encode(answer))
    sys.stderr.flush()
    os._exit(0)  # a plugin's threads and exit handlers could keep the process


def _ask(
    name: str, value: str, ops_for: tuple[str, str] | None, kind: type[Reply], timeout: float
) -> Reply:
    request = {"path": sys.path, "name": name, "value": value, "ops_for": ops_for}
    command = [sys.executable, "-c", _BOOT, json.dumps(request)]
    # Files, not pipes: a process that the plugin left behind could keep a pipe open.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        except OSError as exc:
            raise _NoReply(f"no process could be started to probe it: {exc}") from exc
        _wait(child, timeout)
        if child.returncode != 0:
            raise _NoReply(_how_it_ended(child.returncode, errors))
        output.seek(0)
        try:
            return msgspec.json.decode(output.read(), type=kind)
        except msgspec.MsgspecError as exc:
            raise _NoReply(f"probe ended without an answer: {exc}") from exc


def _wait(child: subprocess.Popen[bytes], timeout: float) -> None:
    try:
        child.wait(timeout)
    except subprocess.TimeoutExpired as exc:
        raise _NoReply(f"probe did not answer within {timeout:g} s") from exc
    finally:
        if child.returncode is None:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    os.killpg(child.pid, signal.SIGKILL)
    try:
        child.wait(_REAP_SECONDS)
    except subprocess.TimeoutExpired:  # stuck inside a driver: the kernel reaps it when it can
        return


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
