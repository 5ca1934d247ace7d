"""The doctor's report as tables in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from windlass.plugin.doctor import OpRow, PluginRow, Report
from windlass.plugin.spec import DeviceDescription, Status

_STYLES = {
    Status.AVAILABLE.value: "green",
    Status.BROKEN.value: "red",
    Status.INCOMPATIBLE.value: "red",
}


def print_report(report: Report, console: Console | None = None) -> None:
    """Print plugins, devices, the selected backend and its ops."""
    console = console or Console()
    console.print(
        f"Windlass {report.windlass} (plugin API {report.plugin_api}), "
        f"Python {report.python}, {_torch(report)}"
    )
    console.print(_plugins(report.plugins))
    for row in report.plugins:
        for device in row.devices:
            console.print(f"{row.name}:{device.index}  {_device(device)}", markup=False)
    if report.problem:
        console.print(f"[red]No backend:[/] {escape(report.problem)}")
        return
    console.print(f"Selected ({report.requested}): [bold]{escape(report.selected)}[/]")
    if report.ops:
        console.print(_ops(report.ops))
    else:
        console.print("It runs models itself: it has no ops.")


def _torch(report: Report) -> str:
    if report.torch is None:
        return "no torch"
    runtimes = [f"{name} {version}" for name, version in report.torch.runtimes.items()]
    return f"torch {report.torch.version} ({', '.join(runtimes) or 'no accelerator runtime'})"


def _plugins(rows: tuple[PluginRow, ...]) -> Table:
    table = Table(title="Backends", title_justify="left")
    for heading in ("name", "from", "status", "priority", "ms", "reason and hint"):
        table.add_column(heading, justify="right" if heading in ("priority", "ms") else "left")
    for row in rows:
        remarks = [row.reason, row.hint, *row.warnings]
        table.add_row(
            escape(row.name),
            escape(f"{row.distribution} {row.version}".strip()),
            f"[{_STYLES.get(row.status, 'yellow')}]{row.status}[/]",
            "" if row.priority is None else str(row.priority),
            f"{row.milliseconds:.0f}",
            escape("\n".join(remark for remark in remarks if remark)),
        )
    return table


def _device(device: DeviceDescription) -> str:
    facts = [device.name, device.arch]
    if device.total_bytes:
        facts.append(f"{device.total_bytes / 2**30:.1f} GiB")
    if device.numa_node is not None:
        facts.append(f"NUMA node {device.numa_node}")
    if device.driver:
        facts.append(f"driver {device.driver}")
    return ", ".join(fact for fact in facts if fact)


def _ops(rows: tuple[OpRow, ...]) -> Table:
    table = Table(title="Ops", title_justify="left")
    for heading in ("op", "provider", "others"):
        table.add_column(heading)
    for row in rows:
        others = [
            f"{provider.name}: {provider.rejected}" if provider.rejected else provider.name
            for provider in row.providers
            if provider.name != row.chosen
        ]
        table.add_row(escape(row.op), escape(row.chosen), escape("\n".join(others)))
    return table
