"""Looks at one plugin: imports it, checks its hooks, version and requirements, probes.

Whatever goes wrong belongs to this plugin alone and becomes a status with a reason. Each plugin
gets a `PluginManager` of its own, so that no hook call can reach two plugins.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any, TypeVar

import msgspec
import pluggy
from packaging.requirements import InvalidRequirement, Requirement

from windlass.plugin.hookspecs import WindlassHooks
from windlass.plugin.spec import API_VERSION, Availability, BackendSpec, OpProvider, Status

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What one plugin said; `spec` is None when it broke before it could describe itself."""

    availability: Availability
    spec: BackendSpec | None = None
    warnings: tuple[str, ...] = ()
    milliseconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class OfferedOps:
    """The op providers of one plugin; `problem` says why there are none, when it broke."""

    providers: tuple[OpProvider, ...] = ()
    problem: str = ""


class _Refused(Exception):
    def __init__(self, status: Status, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.availability = Availability(status=status, reason=reason, hint=hint)


def examine(name: str, load: Callable[[], object]) -> Findings:
    """Load the backend plugin `name` and find out whether it can be used; raises nothing."""
    begun = time.perf_counter()
    warnings: list[str] = []
    spec = None
    try:
        hooks = _hooks(name, load, warnings)
        spec = _spec(name, hooks)
        _check_version(name, spec)
        _check_requirements(spec)
        availability = _probe(hooks)
    except _Refused as refused:
        availability = refused.availability
    return Findings(
        availability=availability,
        spec=spec,
        warnings=tuple(warnings),
        milliseconds=1e3 * (time.perf_counter() - begun),
    )


def offered_ops(name: str, load: Callable[[], object], backend: str, arch: str) -> OfferedOps:
    """Ask the plugin `name` for its op providers; raises nothing."""
    try:
        hooks = _hooks(name, load, [])
        answers = _attempt(
            "windlass_op_providers failed",
            lambda: [
                tuple(answer) for answer in hooks.windlass_op_providers(backend=backend, arch=arch)
            ],
        )
        providers = tuple(
            _typed(provider, OpProvider, "windlass_op_providers")
            for answer in answers
            for provider in answer
        )
    except _Refused as refused:
        return OfferedOps(problem=refused.availability.reason)
    return OfferedOps(providers=providers)


def _hooks(name: str, load: Callable[[], object], warnings: list[str]) -> pluggy.HookRelay:
    plugin = _attempt("import failed", load)
    manager = pluggy.PluginManager("windlass")
    manager.add_hookspecs(WindlassHooks)
    try:
        _attempt("registration failed", lambda: manager.register(plugin, name))
    except _Refused as refused:
        if not isinstance(refused.__cause__, pluggy.PluginValidationError):
            raise
        reason = " ".join(str(refused.__cause__).split())
        raise _Refused(Status.INCOMPATIBLE, reason, _upgrade(name)) from refused
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as exc:
        warnings.append(f"{' '.join(str(exc).split())}; it was made for a newer Windlass")
    return manager.hook


def _spec(name: str, hooks: pluggy.HookRelay) -> BackendSpec:
    answers = _attempt("windlass_backend failed", hooks.windlass_backend)
    if not answers:
        raise _Refused(
            Status.BROKEN,
            "it implements no windlass_backend hook",
            "write @windlass.plugin.hookimpl over a function windlass_backend()",
        )
    spec = _typed(answers[0], BackendSpec, "windlass_backend")
    if spec.name != name:
        raise _Refused(
            Status.BROKEN, f"its entry point is named {name!r}, its BackendSpec {spec.name!r}"
        )
    return spec


def _check_version(name: str, spec: BackendSpec) -> None:
    (major, minor), (our_major, our_minor) = spec.api, API_VERSION
    if major == our_major and minor <= our_minor:
        return
    newer = spec.api > API_VERSION
    raise _Refused(
        Status.INCOMPATIBLE,
        f"it needs plugin API {major}.{minor}, this Windlass has {our_major}.{our_minor}",
        "upgrade windlass" if newer else _upgrade(name),
    )


def _upgrade(name: str) -> str:
    return f"upgrade the distribution that brings the plugin {name!r}"


def _check_requirements(spec: BackendSpec) -> None:
    for text in spec.requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as exc:
            raise _Refused(Status.BROKEN, f"its requirement {text!r} is not valid: {exc}") from exc
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        hint = f"pip install '{text}'"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError as exc:
            reason = f"{requirement.name} is not installed"
            raise _Refused(Status.NOT_INSTALLED, reason, hint) from exc
        if not requirement.specifier.contains(version, prereleases=True):
            reason = f"{requirement.name} {version} is installed, it needs {text}"
            raise _Refused(Status.NOT_INSTALLED, reason, hint)


def _probe(hooks: pluggy.HookRelay) -> Availability:
    answers = _attempt("windlass_probe failed", hooks.windlass_probe)
    if not answers:
        return Availability.available(reason="it has no probe, so this is taken for granted")
    return _typed(answers[0], Availability, "windlass_probe")


def _attempt(what: str, function: Callable[[], Result]) -> Result:
    try:
        return function()
    except SystemExit as exc:
        raise _Refused(Status.BROKEN, f"{what}: it tried to exit with {exc.code!r}") from exc
    except Exception as exc:
        raise _Refused(Status.BROKEN, f"{what}: {type(exc).__name__}: {exc}") from exc


def _typed(answer: Any, kind: type[Result], hook: str) -> Result:  # noqa: ANN401 - a stranger's
    """`answer` as `kind` with every field checked, so that nothing later trips over it."""
    if not isinstance(answer, kind):
        found = type(answer).__name__
        raise _Refused(Status.BROKEN, f"{hook} returned a {found}, not a {kind.__name__}")
    try:
        return msgspec.convert(msgspec.to_builtins(answer), kind)
    except (msgspec.ValidationError, TypeError) as exc:
        raise _Refused(Status.BROKEN, f"{hook} returned a bad {kind.__name__}: {exc}") from exc
