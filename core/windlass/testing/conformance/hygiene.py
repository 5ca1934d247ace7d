"""L0: what a plugin does before torch is imported. Runs in a process that has not imported it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from windlass.plugin.discovery import PluginSource
from windlass.plugin.examine import Findings, OfferedOps, examine, offered_ops
from windlass.plugin.spec import API_VERSION, Status
from windlass.testing.conformance.cases import Case, expect

HEAVY = ("torch", "triton", "intel_extension_for_pytorch", "jax")
"""Packages that discovery must not import: they take seconds, and may open a device."""

CPU_SECONDS = 0.2
"""Processor time that import, hooks and probe may take together."""


class _Watch(MetaPathFinder):
    """Lets heavy packages be found, as a probe may ask, but not imported; notes who tried."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The package's true spec with a loader that refuses."""
        if fullname not in HEAVY:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None:
            spec.loader = _Refusal(fullname, self.asked)
        return spec


class _Refusal(Loader):
    """Notes the import, and fails it: so it costs nothing here."""

    def __init__(self, name: str, asked: set[str]) -> None:
        self._name, self._asked = name, asked

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Refuse."""
        self._asked.add(self._name)
        raise ImportError(f"discovery must not import {self._name}")

    def exec_module(self, module: ModuleType) -> None:
        """Never reached."""


@dataclass(frozen=True)
class _Examined:
    findings: Findings
    offer: OfferedOps
    imports: frozenset[str]
    seconds: float
    devices: frozenset[str]


def hygiene_cases(source: PluginSource) -> list[Case]:
    """The cases of L0; the plugin is examined once, when the first of them runs."""
    kept: list[_Examined] = []

    def examined() -> _Examined:
        if not kept:
            kept.append(_examine(source))
        return kept[0]

    checks: dict[str, Callable[[_Examined], None]] = {
        "spec is valid": _spec_is_valid,
        "API version fits": _api_fits,
        "op providers are valid": _ops_are_valid,
        "discovery imports nothing heavy": _imports_nothing_heavy,
        "discovery is quick": _is_quick,
        "probe leaves no device open": _leaves_no_device,
    }

    def bound(check: Callable[[_Examined], None]) -> Callable[[], None]:
        return lambda: check(examined())

    return [Case(name, bound(check)) for name, check in checks.items()]


def _examine(source: PluginSource) -> _Examined:
    early = [name for name in HEAVY if name in sys.modules]
    expect(not early, f"this process had already imported {', '.join(early)}: nothing can be told")
    watch = _Watch()
    sys.meta_path.insert(0, watch)
    before = _open_devices()
    begun = time.process_time()
    try:
        findings = examine(source.name, source.load)
        seconds = time.process_time() - begun
        devices = findings.availability.devices
        arch = devices[0].arch if devices else ""
        offer = offered_ops(source.name, source.load, source.name, arch)
    finally:
        sys.meta_path.remove(watch)
    return _Examined(findings, offer, frozenset(watch.asked), seconds, _open_devices() - before)


def _open_devices() -> frozenset[str]:
    """Device files that this process holds open, where the system tells."""
    folder, found = "/proc/self/fd", set()
    if not os.path.isdir(folder):
        return frozenset()
    for number in os.listdir(folder):
        try:
            found.add(os.readlink(f"{folder}/{number}"))
        except OSError:  # the listing's own descriptor
            continue
    harmless = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
    ours = ("/dev/pts/", "/dev/shm/", "/dev/fd/")
    return frozenset(
        path
        for path in found
        if path.startswith("/dev/") and path not in harmless and not path.startswith(ours)
    )


def _spec_is_valid(examined: _Examined) -> None:
    said = examined.findings.availability
    expect(examined.findings.spec is not None, f"{said.status.value}: {said.reason}")
    expect(said.status is not Status.BROKEN, f"broken: {said.reason}")
    spec = examined.findings.spec
    assert spec is not None
    module, colon, attribute = spec.target.partition(":")
    expect(bool(module and colon and attribute), f"target {spec.target!r} is not 'module:factory'")
    expect(bool(spec.device_type), "device_type is empty")
    if said.status is not Status.AVAILABLE:
        expect(bool(said.reason), f"the probe says {said.status.value!r} and no reason")


def _api_fits(examined: _Examined) -> None:
    said, spec = examined.findings.availability, examined.findings.spec
    expect(said.status is not Status.INCOMPATIBLE, f"incompatible: {said.reason}")
    expect(not examined.findings.warnings, "; ".join(examined.findings.warnings))
    expect(spec is not None, "it has no spec, so no API version")
    assert spec is not None
    expect(spec.api[0] == API_VERSION[0], f"API {spec.api}, this Windlass has {API_VERSION}")


def _ops_are_valid(examined: _Examined) -> None:
    expect(not examined.offer.problem, examined.offer.problem)
    pairs = [(provider.op, provider.name) for provider in examined.offer.providers]
    twice = sorted({pair for pair in pairs if pairs.count(pair) > 1})
    expect(not twice, f"offered twice: {twice}")
    for provider in examined.offer.providers:
        for target in filter(None, (provider.target, provider.supports)):
            module, _, attribute = target.partition(":")
            expect(
                bool(module and attribute), f"{provider.op}: {target!r} is not 'module:attribute'"
            )


def _imports_nothing_heavy(examined: _Examined) -> None:
    expect(not examined.imports, f"it imported {', '.join(sorted(examined.imports))}")


def _is_quick(examined: _Examined) -> None:
    took = examined.seconds
    expect(took <= CPU_SECONDS, f"{took * 1e3:.0f} ms of processor time, at most 200 are allowed")


def _leaves_no_device(examined: _Examined) -> None:
    expect(not examined.devices, f"it holds {', '.join(sorted(examined.devices))}")
    heavy = [name for name in HEAVY if name in sys.modules]
    expect(not heavy, f"{', '.join(heavy)} was imported, which may have opened a device")
