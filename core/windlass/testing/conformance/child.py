"""Body of a child process: one level of one backend, answers as lines of JSON in a file."""

from __future__ import annotations

import faulthandler
import importlib
import os
import sys
from collections.abc import Iterable
from importlib import metadata
from typing import IO, TYPE_CHECKING, Any

import msgspec

from windlass.config import BackendConfig
from windlass.errors import PluginError
from windlass.plugin.discovery import PluginSource
from windlass.plugin.examine import examine
from windlass.plugin.spec import BACKENDS_GROUP, Status
from windlass.testing.conformance.cases import Case, Outcome, check_all

if TYPE_CHECKING:
    from windlass.backend import Backend


def main(request: dict[str, Any]) -> None:
    """Answer the request, and end the process without a plugin's exit handlers."""
    faulthandler.enable(all_threads=False)
    with open(request["answers"], "wb") as answers:
        _answer(request, answers)
        _say(answers, {"end": True})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _answer(request: dict[str, Any], answers: IO[bytes]) -> None:
    level = request["level"]
    source = _source(request["backend"], request["plugin"])
    if level == "L0":
        from windlass.testing.conformance.hygiene import hygiene_cases

        _run(level, hygiene_cases(source), request, answers)
        return
    unusable = _why_unusable(source)
    if unusable:
        _say(answers, Outcome(level=level, case="all", status="skipped", reason=unusable))
        return
    backend = _backend(request)
    if level == "L2":
        from windlass.testing.conformance.ops import providers

        _say(answers, {"providers": providers(backend)})
    _run(level, _cases(level, backend, request["provider"]), request, answers)


def _run(level: str, cases: Iterable[Case], request: dict[str, Any], answers: IO[bytes]) -> None:
    def begin(name: str) -> None:
        _say(answers, {"begin": name})

    for outcome in check_all(level, cases, begin=begin, skip=frozenset(request["skip"])):
        _say(answers, outcome)


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


def _backend(request: dict[str, Any]) -> Backend:
    from windlass.plugin import create_backend

    extra = {}
    if request["plugin"]:
        extra[request["backend"]] = importlib.import_module(request["plugin"])
    return create_backend(BackendConfig(backend=request["backend"]), extra=extra)


def _cases(level: str, backend: Backend, provider: str) -> Iterable[Case]:
    if level == "L1":
        from windlass.testing.conformance.device import device_cases

        return device_cases(backend)
    if level == "L2":
        from windlass.testing.conformance.ops import op_cases

        return op_cases(backend, provider)
    from windlass.testing.conformance.attention import attention_cases

    return attention_cases(backend)
