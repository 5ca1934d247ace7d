"""The NUMA nodes that this process may use: their processors and their memory.

Reads /sys/devices/system/node and /proc/self/status; no torch.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

NODES = Path("/sys/devices/system/node")


class NumaNode(msgspec.Struct, frozen=True):
    """Processors of a node that this process may run on, and the node's memory in bytes."""

    index: int
    cpus: frozenset[int]
    total: int
    available: int


def numa_nodes(proc: Path = Path("/proc"), nodes: Path = NODES) -> tuple[NumaNode, ...]:
    """Nodes with both a processor and memory that this process may use, by index.

    Empty where the kernel does not tell.
    """
    allowed = _allowed(proc / "self/status")
    cpus, memories = allowed.get("Cpus_allowed_list"), allowed.get("Mems_allowed_list")
    found = []
    for folder in nodes.glob("node[0-9]*"):
        index = int(folder.name.removeprefix("node"))
        own = parse_list(_text(folder / "cpulist"))
        usable = own if cpus is None else own & cpus
        total, available = _memory(folder / "meminfo")
        if usable and total and (memories is None or index in memories):
            found.append(NumaNode(index, usable, total, available))
    return tuple(sorted(found, key=lambda node: node.index))


def parse_list(text: str) -> frozenset[int]:
    """The numbers of a kernel list such as "0-3,8"."""
    numbers: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def _allowed(status: Path) -> dict[str, frozenset[int]]:
    pairs = (line.partition(":") for line in _text(status).splitlines())
    return {name: parse_list(value) for name, _, value in pairs if name.endswith("_allowed_list")}


def _memory(meminfo: Path) -> tuple[int, int]:
    """Total, and what is free or could be: cached files and the kernel's own caches."""
    fields: dict[str, int] = {}
    for line in _text(meminfo).splitlines():
        _, _, rest = line.partition("Node ")
        words = rest.replace(":", " ").split()
        if len(words) >= 3 and words[2].isdigit():
            fields[words[1]] = int(words[2]) * 1024
    reclaimable = ("MemFree", "Active(file)", "Inactive(file)", "SReclaimable")
    return fields.get("MemTotal", 0), sum(fields.get(name, 0) for name in reclaimable)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
