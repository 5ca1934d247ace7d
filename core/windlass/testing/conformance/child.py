"""Body of a child process: one level of one backend, answers as lines of JSON in a file."""

from __future__ import annotations

import faulthandler
import importlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from windlass.config import BackendConfig
from windlass.errors import PluginError
from windlass.plugin.discovery import PluginSource
from windlass.plugin.examine import examine
from windlass.plugin.spec import BACKENDS_GROUP, Status
from windlass.testing.conformance.cases import WHOLE_LEVEL, Absent, Case, Outcome, check_all

if TYPE_CHECKING:
    from windlass.backend import Backend

_CASES = {
    "L0": "windlass.testing.conformance.hygiene:hygiene_cases",
    "L1": "windlass.testing.conformance.device:device_cases",
    "L2": "windlass.testing.conformance.ops:op_cases",
    "L3": "windlass.testing.conformance.attention:attention_cases",
    "L4": "windlass.testing.conformance.engine:engine_cases",
    "L5": "windlass.testing.conformance.graphs:graph_cases",
    "L6": "windlass.testing.conformance.collectives:collective_cases",
    "L7": "windlass.testing.conformance.offline_kernels:offline_cases",
    "L8": "windlass.testing.conformance.speed:speed_cases",
}
"""Where a level's cases are made; imported by the child that runs them."""

_WITHOUT_DEVICE = ("L0", "L7")
"""Levels of the plugin itself, which need no device; the others stop where the probe finds none."""

_MAY_BE_ABSENT = ("L5", "L7", "L8")
"""Levels without any case prove nothing for a backend that has nothing of theirs."""


def main(request: dict[str, Any]) -> None:
    """Answer the request, and end the process without a plugin's exit handlers."""
    faulthandler.enable(all_threads=False)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with open(request["answers"], "wb") as answers:
        _answer(request, answers)
        _say(answers, {"end": True})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _end_with_parent() -> None:
    """End this session when the process that started it is gone, which closes its end of stdin."""
    if not os.read(0, 1):
        os.killpg(0, signal.SIGKILL)


def _answer(request: dict[str, Any], answers: IO[bytes]) -> None:
    level, arch = request["level"], request["interpret"]
    if arch:
        os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when a kernel is defined
    source = _source(request["backend"], request["plugin"])
    unusable = "" if arch or level in _WITHOUT_DEVICE else _why_unusable(source)
    if unusable:
        _say(answers, Outcome(level=level, case=WHOLE_LEVEL, status="skipped", reason=unusable))
        return
    try:
        _run(level, _cases(request, source, answers), request, answers)
    except Absent as absent:
        _say(answers, Outcome(level=level, case=WHOLE_LEVEL, status="absent", reason=str(absent)))


def _run(level: str, cases: Iterable[Case], request: dict[str, Any], answers: IO[bytes]) -> None:
    def begin(name: str) -> None:
        _say(answers, {"begin": name})

    first, step = request["share"]
    cases = itertools.islice(cases, first, None, step)
    ran = bool(request["skip"] or first)
    for outcome in check_all(level, cases, begin=begin, skip=frozenset(request["skip"])):
        ran = True
        _say(answers, outcome)
    if not ran and level in _MAY_BE_ABSENT:
        raise Absent("the backend has nothing that this level proves")


def _say(answers: IO[bytes], what: object) -> None:
    answers.write(msgspec.json.encode(what) + b"\n")
    answers.flush()  # what was said must outlive a crash


def _source(name: str, plugin: str) -> PluginSource:
    """Where the plugin is, not imported yet.

    Raises:
        PluginError: it is not installed.
    """
    if plugin:
        return PluginSource(name=name, value=plugin)
    entries = metadata.entry_points(group=BACKENDS_GROUP, name=name)
    if len(entries) != 1:
        brought = "no" if not entries else "more than one"
        raise PluginError(f"{brought} installed distribution brings a backend {name!r}")
    (entry,) = entries
    return PluginSource(name=name, value=entry.value)


def _why_unusable(source: PluginSource) -> str:
    """Why nothing can run here; a plugin that is broken is an error instead.

    Raises:
        PluginError: the plugin is broken or incompatible.
    """
    said = examine(source.name, source.load).availability
    if said.status in (Status.BROKEN, Status.INCOMPATIBLE):
        raise PluginError(f"{said.status.value}: {said.reason}")
    return "" if said.status is Status.AVAILABLE else f"{said.status.value}: {said.reason}"


def make_backend(name: str, plugin: str, config: BackendConfig) -> Backend:
    """The backend of this name, from a plugin's module where it is not installed.

    `config` says everything but the name.
    """
    from windlass.plugin import create_backend

    extra = {name: importlib.import_module(plugin)} if plugin else {}
    return create_backend(msgspec.structs.replace(config, backend=name), extra=extra)


def _make_interpreted(
    source: PluginSource, arch: str, level: str, config: BackendConfig
) -> Backend:
    """The plugin's kernels on the host.

    Raises:
        PluginError: the plugin names no kernels, or has no tables for `arch`.
    """
    import torch

    from windlass.testing.triton_kernels import interpreted_backend

    spec = examine(source.name, source.load).spec
    if spec is None or not spec.offline:
        raise PluginError("the plugin names no kernels that run without its device")
    backend = interpreted_backend(spec.offline, arch, config)
    if level == "L3":
        # A case takes a second here, and a tile does not change with the bits of its numbers.
        backend.capabilities = replace(backend.capabilities, dtypes=(torch.float32,))
    return backend


def _cases(request: dict[str, Any], source: PluginSource, answers: IO[bytes]) -> Iterable[Case]:
    """The level's cases, each level from what it needs."""
    level, name, plugin = request["level"], request["backend"], request["plugin"]
    module, _, function = _CASES[level].partition(":")
    cases: Callable[..., Iterable[Case]] = getattr(importlib.import_module(module), function)
    if level in _WITHOUT_DEVICE:
        return cases(source)
    make: Callable[[BackendConfig], Backend] = partial(make_backend, name, plugin)
    if request["interpret"]:
        make = partial(_make_interpreted, source, request["interpret"], level)
    if level == "L4":
        return cases(make, Path(request["folder"]))
    if level == "L6":
        found = examine(source.name, source.load).availability
        return cases(name, plugin, len(found.devices))
    backend = make(BackendConfig())
    if backend.runs_models:
        raise Absent("the backend runs models itself: it has no device, ops or attention to prove")
    if level != "L2":
        return cases(backend)
    from windlass.testing.conformance.ops import providers

    _say(answers, {"providers": providers(backend)})
    return cases(backend, request["provider"])
