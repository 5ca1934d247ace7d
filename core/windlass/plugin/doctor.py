"""What `windlass doctor` tells: every plugin, the chosen backend, every op's providers."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping

import msgspec

from windlass._version import __version__
from windlass.config import BackendConfig
from windlass.errors import WindlassError
from windlass.plugin.discovery import AUTO, FoundPlugin, discover
from windlass.plugin.selection import construct, select
from windlass.plugin.spec import API_VERSION, DeviceDescription
from windlass.plugin.torch_build import TorchBuild, installed_torch


class PluginRow(msgspec.Struct, frozen=True, kw_only=True):
    """One plugin as discovery saw it; `milliseconds` is what examining it took."""

    name: str
    distribution: str
    version: str
    status: str
    reason: str
    hint: str
    priority: int | None
    stability: str | None
    milliseconds: float
    devices: tuple[DeviceDescription, ...]
    warnings: tuple[str, ...]


class ProviderRow(msgspec.Struct, frozen=True, kw_only=True):
    """One provider of an op; `rejected` says why it cannot be used at all.

    A provider that is not `unconditional` is asked at each new kind of call.
    """

    name: str
    rejected: str
    unconditional: bool


class OpRow(msgspec.Struct, frozen=True, kw_only=True):
    """One op: the provider tried first, and all of them in the order in which they are tried."""

    op: str
    chosen: str
    providers: tuple[ProviderRow, ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that `windlass doctor` knows; `selected` is empty when `problem` says why not."""

    windlass: str
    plugin_api: str
    python: str
    torch: TorchBuild | None
    requested: str
    selected: str
    problem: str
    plugins: tuple[PluginRow, ...]
    ops: tuple[OpRow, ...]


def diagnose(
    config: BackendConfig | None = None, *, extra: Mapping[str, object] | None = None
) -> Report:
    """Examine every plugin, select as the engine would, and read the ops of what was selected.

    torch is imported only when a backend can be constructed.
    """
    config = config or BackendConfig()
    found = discover(msgspec.structs.replace(config, backend=AUTO), extra=extra)
    selected, problem = "", ""
    ops: tuple[OpRow, ...] = ()
    try:
        plugin = select(config, found)
        ops = _op_rows(plugin, config)
        selected = plugin.name
    except WindlassError as exc:
        problem = str(exc)
    return Report(
        windlass=__version__,
        plugin_api=".".join(map(str, API_VERSION)),
        python=platform.python_version(),
        torch=installed_torch(),
        requested=config.backend,
        selected=selected,
        problem=problem,
        plugins=tuple(_plugin_row(plugin) for plugin in found),
        ops=ops,
    )


def to_json(report: Report) -> str:
    """The report as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode()


def run(*, json: bool = False, backend: str = AUTO) -> int:
    """Print the report; 0 when the backend asked for can be used, else 2."""
    report = diagnose(BackendConfig(backend=backend))
    if json:
        sys.stdout.write(to_json(report) + "\n")
    else:
        from windlass.plugin.doctor_table import print_report

        print_report(report)
    return 0 if report.selected else 2


def _plugin_row(plugin: FoundPlugin) -> PluginRow:
    said, spec = plugin.availability, plugin.spec
    return PluginRow(
        name=plugin.name,
        distribution=plugin.source.distribution,
        version=plugin.source.version,
        status=said.status.value,
        reason=said.reason,
        hint=said.hint,
        priority=spec.priority if spec is not None else None,
        stability=spec.stability if spec is not None else None,
        milliseconds=round(plugin.findings.milliseconds, 2),
        devices=said.devices,
        warnings=plugin.findings.warnings,
    )


def _op_rows(plugin: FoundPlugin, config: BackendConfig) -> tuple[OpRow, ...]:
    backend = construct(plugin, config)
    try:
        rows = []
        for op in () if backend.runs_models else backend.ops:
            providers = tuple(
                ProviderRow(
                    name=candidate.name,
                    rejected=candidate.rejected,
                    unconditional=candidate.supports is None,
                )
                for candidate in op.candidates
            )
            chosen = next(row.name for row in providers if not row.rejected)
            rows.append(OpRow(op=op.name, chosen=chosen, providers=providers))
        return tuple(rows)
    finally:
        backend.close()
