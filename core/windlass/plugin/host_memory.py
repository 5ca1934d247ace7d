"""How much host memory this process may use: the machine's, its NUMA nodes', its container's.

Reads /proc/meminfo, the NUMA nodes and the control group (v2 and v1) of this process; no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from windlass.plugin.numa import NODES, numa_nodes

_UNLIMITED = 1 << 60


class HostMemory(NamedTuple):
    """Bytes: what may be used at most, and what is free of it now."""

    total: int
    available: int


def host_memory(
    proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup"), nodes: Path = NODES
) -> HostMemory:
    """Memory of the machine, cut down to the NUMA nodes that this process runs on and to every
    control group limit above it."""
    info = _meminfo(proc / "meminfo")
    total = info.get("MemTotal", 0)
    available = info.get("MemAvailable", info.get("MemFree", total))
    local = numa_nodes(proc, nodes)
    if local:
        total = min(total, sum(node.total for node in local))
        available = min(available, sum(node.available for node in local))
    for limit, used in _cgroup_limits(proc, cgroup):
        total = min(total, limit) if total else limit
        available = min(available, max(limit - used, 0))
    return HostMemory(total=total, available=available)


def _meminfo(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines)
    return {name[0].rstrip(":"): int(name[1]) * 1024 for name in fields if len(name) >= 2}


def _cgroup_limits(proc: Path, cgroup: Path) -> list[tuple[int, int]]:
    """(limit, used without reclaimable file pages) of each control group above this process."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            limits += _walk(cgroup, path, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root = cgroup / "memory"
            limits += _walk(root, path, "memory.limit_in_bytes", "memory.usage_in_bytes")
    return limits


def _walk(root: Path, path: str, limit_file: str, used_file: str) -> list[tuple[int, int]]:
    found = []
    folder = root / path.lstrip("/")
    while True:
        limit, used = _number(folder / limit_file), _number(folder / used_file)
        if limit is not None and limit < _UNLIMITED:
            found.append((limit, max((used or 0) - _reclaimable(folder / "memory.stat"), 0)))
        if folder == root or root not in folder.parents:
            return found
        folder = folder.parent


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _reclaimable(path: Path) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    fields = dict(line.split()[:2] for line in lines if len(line.split()) >= 2)
    names = ("inactive_file", "active_file", "total_inactive_file", "total_active_file")
    version_2 = [int(fields[name]) for name in names[:2] if name in fields]
    version_1 = [int(fields[name]) for name in names[2:] if name in fields]
    return sum(version_1) if version_1 else sum(version_2)
