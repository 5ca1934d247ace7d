"""Finds the backend plugins that are installed and what each says, without importing torch.

In-tree and third-party plugins stand in the same entry-point group. An in-tree plugin is examined
here, a third party's in a child process (`windlass.plugin.isolation`).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata

from packaging.utils import canonicalize_name

from windlass.config import BackendConfig
from windlass.plugin.examine import Findings, OfferedOps, examine, offered_ops
from windlass.plugin.isolation import ask_findings, ask_ops
from windlass.plugin.spec import (
    BACKENDS_GROUP,
    OPS_GROUP,
    Availability,
    BackendSpec,
    OpProvider,
    Status,
)

logger = logging.getLogger(__name__)

AUTO = "auto"
PROBE_TIMEOUT = 10.0
"""Seconds that a third party's plugin has to load and to answer."""

_OWN_DISTRIBUTION = "windlass"


@dataclass(frozen=True, kw_only=True)
class PluginSource:
    """Where a plugin comes from: an entry point of a distribution, or an object given directly."""

    name: str
    value: str
    distribution: str = ""
    version: str = ""
    given: object | None = None

    @property
    def trusted(self) -> bool:
        """Whether it may be examined inside this process."""
        own = canonicalize_name(self.distribution) == _OWN_DISTRIBUTION
        return own or self.given is not None

    @property
    def origin(self) -> str:
        """The distribution with its version, for people."""
        return f"{self.distribution} {self.version}".strip() or "this process"

    def load(self) -> object:
        """The plugin itself, imported now."""
        if self.given is not None:
            return self.given
        return metadata.EntryPoint(name=self.name, value=self.value, group=BACKENDS_GROUP).load()


@dataclass(frozen=True, kw_only=True)
class FoundPlugin:
    """A plugin and what it said when it was examined."""

    source: PluginSource
    findings: Findings

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.source.name

    @property
    def availability(self) -> Availability:
        """Whether it can be used here, and why not."""
        return self.findings.availability

    @property
    def spec(self) -> BackendSpec | None:
        """How it describes itself; None when it broke before it could."""
        return self.findings.spec

    @property
    def usable(self) -> bool:
        """Whether a backend can be made from it here."""
        return self.spec is not None and self.availability.status is Status.AVAILABLE


def discover(
    config: BackendConfig | None = None,
    *,
    extra: Mapping[str, object] | None = None,
    entry_points: Iterable[metadata.EntryPoint] | None = None,
    probe_timeout: float = PROBE_TIMEOUT,
) -> tuple[FoundPlugin, ...]:
    """Examine every installed backend plugin, or the named one alone, sorted by name.

    `extra` maps names to plugin modules of this process. `entry_points` replaces those that are
    installed. A plugin that breaks, hangs or shares its name is reported, and stops no other.
    """
    config = config or BackendConfig()
    sources = _sources(BACKENDS_GROUP, entry_points, extra or {})
    if config.backend != AUTO:
        sources = {name: found for name, found in sources.items() if name == config.backend}
    if not sources:
        return ()

    refused = {
        name: refusal
        for name, several in sources.items()
        if (refusal := _refusal(several, name in config.disabled_plugins))
    }
    asked = {name: several[0] for name, several in sources.items() if name not in refused}
    findings = {name: Findings(availability=refusal) for name, refusal in refused.items()}
    with ExitStack() as processes:
        questions = {
            name: processes.enter_context(ask_findings(name, source.value, timeout=probe_timeout))
            for name, source in asked.items()
            if not source.trusted
        }
        # What is examined in this process is so while the others' processes run.
        for name in asked.keys() - questions.keys():
            findings[name] = examine(name, asked[name].load)
        findings |= {name: question.answer() for name, question in questions.items()}
    found = tuple(
        FoundPlugin(source=sources[name][0], findings=findings[name]) for name in sorted(sources)
    )
    for plugin in found:
        for warning in plugin.findings.warnings:
            logger.warning("plugin %s (%s): %s", plugin.name, plugin.source.origin, warning)
    return found


def discover_ops(
    config: BackendConfig,
    backend: str,
    arch: str,
    *,
    entry_points: Iterable[metadata.EntryPoint] | None = None,
    probe_timeout: float = PROBE_TIMEOUT,
) -> tuple[OpProvider, ...]:
    """Op providers for `backend` from the plugins that bring nothing but ops.

    One that breaks is left out with a warning.
    """
    providers: list[OpProvider] = []
    for name, sources in _sources(OPS_GROUP, entry_points, {}).items():
        if name in config.disabled_plugins:
            continue
        for source in sources:
            offer = _offer(source, backend, arch, probe_timeout)
            if offer.problem:
                logger.warning("op plugin %s (%s): %s", name, source.origin, offer.problem)
            providers += offer.providers
    return tuple(providers)


def _offer(source: PluginSource, backend: str, arch: str, timeout: float) -> OfferedOps:
    if source.trusted:
        return offered_ops(source.name, source.load, backend, arch)
    with ask_ops(source.name, source.value, (backend, arch), timeout=timeout) as question:
        return question.answer()


def _sources(
    group: str,
    entry_points: Iterable[metadata.EntryPoint] | None,
    extra: Mapping[str, object],
) -> dict[str, list[PluginSource]]:
    listed = metadata.entry_points(group=group) if entry_points is None else entry_points
    sources: dict[str, list[PluginSource]] = {}
    known: dict[int, tuple[str, str]] = {id(None): ("", "")}
    for entry in listed:
        if entry.dist is not None and id(entry.dist) not in known:
            known[id(entry.dist)] = _name_and_version(entry.dist)
        distribution, version = known[id(entry.dist)]
        source = PluginSource(
            name=entry.name, value=entry.value, distribution=distribution, version=version
        )
        sources.setdefault(entry.name, []).append(source)
    for name, plugin in extra.items():
        given = PluginSource(name=name, value=getattr(plugin, "__name__", name), given=plugin)
        sources.setdefault(name, []).append(given)
    return sources


def _name_and_version(distribution: metadata.Distribution) -> tuple[str, str]:
    """From the head of the metadata, read once for each distribution.

    What `importlib.metadata` does for it, at each call, is to parse the whole README as an email.
    """
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    head = itertools.takewhile(str.strip, text.splitlines())
    facts = dict(line.split(": ", 1) for line in head if ": " in line)
    return facts.get("Name", ""), facts.get("Version", "")


def _refusal(sources: list[PluginSource], disabled: bool) -> Availability | None:
    """Why a plugin is not even asked; None when it is."""
    if disabled:
        return Availability(status=Status.DISABLED, reason="the settings disable it")
    return _duplicate(sources) if len(sources) > 1 else None


def _duplicate(sources: list[PluginSource]) -> Availability:
    origins = " and ".join(sorted(source.origin for source in sources))
    return Availability(
        status=Status.BROKEN,
        reason=f"{origins} both bring a backend named {sources[0].name!r}",
        hint="uninstall all but one of them",
    )
