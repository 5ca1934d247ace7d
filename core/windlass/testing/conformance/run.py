"""Runs levels in child processes: a crash there is a failed case, and the rest goes on."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from windlass._version import __version__
from windlass.errors import PluginError
from windlass.testing.conformance.cases import WHOLE_LEVEL, Outcome
from windlass.testing.conformance.report import Report

LEVELS = {
    "L0": "discovery",
    "L1": "device and allocator",
    "L2": "ops",
    "L3": "attention",
    "L4": "engine",
    "L5": "graphs",
    "L6": "collectives",
    "L7": "offline compilation",
    "L8": "speed",
}
"""What each level proves, in the order in which they run."""

DEFAULT_LEVELS = tuple(level for level in LEVELS if level != "L8")
"""All but speed, which measures instead of proving, and wants the machine for itself."""

REFERENCE = "reference"
"""The provider that every op has (`windlass.backend.ops.REFERENCE`, which needs torch)."""

TIMEOUT = 600.0
"""Seconds that a child may take: a level, or an op provider of L2."""

KERNELS_TIMEOUT = 3600.0
"""Seconds for a child that compiles or interprets every kernel."""

MAX_CRASHES = 5
"""A child that crashed is started again behind the case; after so many times no more."""

_BOOT = """\
import json, sys
with open(sys.argv[1]) as file:
    request = json.load(file)
sys.path[:] = request["path"]
from windlass.testing.conformance.child import main
main(request)
"""


SHARED_LEVELS = ("L2", "L3", "L7")
"""Levels whose cases do not mind what else the device does: several processes may share them."""

INTERPRETED_LEVELS = ("L2", "L3")
"""What Triton's interpreter can prove of kernels without their chip; a model would take hours."""


@dataclass(frozen=True)
class Target:
    """The backend to prove; `plugin` is the module of a plugin that is not installed.

    With `interpret`, an architecture of `BackendSpec.offline`, no device is used: the kernels run
    in Triton's interpreter on the host, with the tables of that architecture. So many `jobs`, which
    are processes, share the cases of `SHARED_LEVELS`.
    """

    backend: str
    plugin: str = ""
    interpret: str = ""
    jobs: int = 1


class _Ended(msgspec.Struct):
    """What a child left: outcomes, the case that it was in, and how it ended ("": well)."""

    outcomes: list[Outcome]
    inside: str
    problem: str
    providers: list[str]


def prove(
    target: Target,
    levels: Iterable[str] = DEFAULT_LEVELS,
    *,
    providers: Sequence[str] = (),
    timeout: float | None = None,
) -> Report:
    """Run the levels against a backend, each (and each op provider of L2) in its own process.

    `providers` limits L2 to these; empty: all. `timeout` is in seconds, for each process; None:
    `TIMEOUT`, or where kernels are compiled or interpreted `KERNELS_TIMEOUT`.

    Raises:
        PluginError: there is no such level, it cannot be interpreted, or nobody is to do it.
    """
    begun = time.perf_counter()
    wanted = list(dict.fromkeys(levels))
    unknown = [level for level in wanted if level not in LEVELS]
    if unknown:
        raise PluginError(f"there is no level {unknown[0]!r}; there are: {', '.join(LEVELS)}")
    if target.interpret and not set(wanted) <= set(INTERPRETED_LEVELS):
        raise PluginError(f"only {' and '.join(INTERPRETED_LEVELS)} can be interpreted")
    if target.jobs < 1:
        raise PluginError(f"jobs must be at least 1, not {target.jobs}")
    outcomes: list[Outcome] = []
    for level in wanted:
        slow = target.interpret or level == "L7"
        seconds = timeout or (KERNELS_TIMEOUT if slow else TIMEOUT)
        shares = target.jobs if level in SHARED_LEVELS else 1
        outcomes += _level(target, level, providers, seconds, shares)
    return Report(
        windlass=__version__,
        backend=target.backend,
        levels=tuple(wanted),
        outcomes=tuple(outcomes),
        seconds=round(time.perf_counter() - begun, 2),
    )


def _level(
    target: Target, level: str, only: Sequence[str], timeout: float, shares: int
) -> list[Outcome]:
    if level != "L2":
        return _group(target, level, "", timeout, shares)[0]
    outcomes: list[Outcome] = []
    known = list(only)
    if not known:
        outcomes, known = _group(target, level, REFERENCE, timeout, shares)
        known = [name for name in known if name != REFERENCE]
    for provider in known:
        outcomes += _group(target, level, provider, timeout, shares)[0]
    return outcomes


def _group(
    target: Target, level: str, provider: str, timeout: float, shares: int
) -> tuple[list[Outcome], list[str]]:
    """All cases of a level (of L2: with one provider) in their order, shared by some children.

    Also the names of L2's providers.
    """

    def share(index: int) -> tuple[list[Outcome], list[str]]:
        return _share(target, level, provider, timeout, (index, shares))

    with ThreadPoolExecutor(shares) as threads:
        parts = list(threads.map(share, range(shares)))
    dealt = itertools.zip_longest(*(outcomes for outcomes, _ in parts))
    outcomes = [outcome for row in dealt for outcome in row if outcome is not None]
    # What ends a level before its cases, every child says.
    whole = [outcome for outcome in outcomes if outcome.case == WHOLE_LEVEL]
    return whole[:1] or outcomes, next((names for _, names in parts if names), [])


def _share(
    target: Target, level: str, provider: str, timeout: float, share: tuple[int, int]
) -> tuple[list[Outcome], list[str]]:
    """Every n-th case from the i-th on, `share` being (i, n), over as many children as crash."""
    outcomes: list[Outcome] = []
    providers: list[str] = []
    for _ in range(MAX_CRASHES):
        done = [outcome.case for outcome in outcomes]
        ended = _child(target, level, provider, done, timeout, share)
        outcomes += ended.outcomes
        providers = ended.providers or providers
        if not ended.problem:
            break
        case = ended.inside or ("between cases" if outcomes else "start")
        outcomes.append(_failure(level, case, ended.problem, provider))
        if not ended.inside:
            break
    else:
        text = f"not run: the process crashed {MAX_CRASHES} times"
        outcomes.append(_failure(level, "the cases that are left", text, provider))
    return outcomes, providers


def _failure(level: str, case: str, reason: str, provider: str) -> Outcome:
    return Outcome(level=level, case=case, status="failed", reason=reason, provider=provider)


def _child(
    target: Target,
    level: str,
    provider: str,
    skip: Iterable[str],
    timeout: float,
    share: tuple[int, int],
) -> _Ended:
    with tempfile.TemporaryDirectory(prefix="windlass-conformance-") as folder:
        answers = Path(folder) / "answers"
        request = {
            "path": sys.path,
            "backend": target.backend,
            "plugin": target.plugin,
            "interpret": target.interpret,
            "level": level,
            "provider": provider,
            "skip": list(skip),
            "share": share,
            "answers": str(answers),
            "folder": folder,
        }
        # A file, for the list of cases to skip may be longer than an argument can be.
        order = Path(folder) / "request"
        order.write_text(json.dumps(request))
        with tempfile.TemporaryFile() as errors:
            problem = _run([sys.executable, "-c", _BOOT, str(order)], errors, timeout)
        return _read(answers, problem)


def _run(command: list[str], errors: IO[bytes], timeout: float) -> str:
    """How the child ended, "" when well."""
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # it closes when this process ends, and the child ends with it
        stdout=errors,
        stderr=errors,
        start_new_session=True,
    )
    assert child.stdin is not None
    try:
        code = child.wait(timeout)
    except subprocess.TimeoutExpired:
        return f"it did not end within {timeout:g} s"
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        child.stdin.close()
    if code == 0:
        return ""
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    last = f": {lines[-1]}" if lines else ""
    if code > 0:
        return f"the process ended with exit status {code}{last}"
    return f"the process was ended by {_signal_name(-code)}{last}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _read(answers: Path, problem: str) -> _Ended:
    """What the child wrote, line by line, as far as it came."""
    ended = _Ended([], "", problem, [])
    lines = answers.read_bytes().splitlines() if answers.exists() else []
    for line in lines:
        try:
            said: dict[str, Any] = json.loads(line)
        except ValueError:  # cut off in the middle
            continue
        if "begin" in said:
            ended.inside = said["begin"]
        elif "providers" in said:
            ended.providers = said["providers"]
        elif "end" in said:
            ended.inside = ""
            return ended
        else:
            ended.outcomes.append(msgspec.convert(said, Outcome))
            ended.inside = ""
    if not problem:
        ended.problem = "the process ended in the middle, with exit status 0"
    return ended
