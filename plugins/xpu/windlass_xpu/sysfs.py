"""Intel GPUs as the kernel's xe and i915 drivers show them in sysfs, numbered as torch does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from windlass.plugin import DeviceDescription
from windlass_xpu.chips import Family, chip_of

_INTEL_VENDOR = "0x8086"
_DRIVERS = ("xe", "i915")
_INTEGRATED_ADDRESS = "0000:00:02.0"
"""Where Intel puts the GPU that shares the processor's memory."""


@dataclass(frozen=True)
class RenderNode:
    """A GPU, or a tile of one, with the device file that programs open to compute on it."""

    device: DeviceDescription
    file: str


@dataclass(frozen=True)
class _Card:
    """A GPU with its tiles, most of which have one."""

    node: RenderNode
    address: str
    tiles: int


def visible_nodes(drm: Path, environ: Mapping[str, str], host_bytes: int = 0) -> list[RenderNode]:
    """The GPUs that torch will count, in its order.

    Level Zero lists discrete GPUs before the integrated one, and as devices the tiles of a GPU
    unless ZE_FLAT_DEVICE_HIERARCHY is COMPOSITE; ZE_AFFINITY_MASK chooses among those. Of what is
    left torch drops the integrated GPU when there is a discrete one. `host_bytes` is the memory of
    an integrated GPU.
    """
    cards = [_card(gpu, host_bytes) for gpu in _gpus(drm)]
    cards.sort(key=lambda card: (card.node.device.unified, card.address))
    composite = environ.get("ZE_FLAT_DEVICE_HIERARCHY", "FLAT").upper() == "COMPOSITE"
    nodes = [card.node for card in cards for _ in range(1 if composite else card.tiles)]
    mask = environ.get("ZE_AFFINITY_MASK")
    if mask is not None:
        nodes = _chosen(nodes, mask)
    discrete = [node for node in nodes if not node.device.unified]
    return [
        replace(node, device=replace(node.device, index=index))
        for index, node in enumerate(discrete or nodes)
    ]


def _chosen(nodes: Sequence[RenderNode], mask: str) -> list[RenderNode]:
    """An entry of the mask is a device or "device.tile"; tiles of one device stay one."""
    wanted = {entry.strip().split(".")[0] for entry in mask.split(",")}
    return [node for number, node in enumerate(nodes) if str(number) in wanted]


def _gpus(drm: Path) -> list[Path]:
    """The PCI devices of Intel's that one of its drivers has."""
    cards = [card for card in drm.glob("card*") if re.fullmatch(r"card\d+", card.name)]
    return [card / "device" for card in cards if _driver(card / "device")]


def _driver(gpu: Path) -> str:
    """The name of the kernel driver when this is an Intel GPU, else empty."""
    if _read(gpu / "vendor") != _INTEL_VENDOR:
        return ""
    name = (gpu / "driver").resolve().name
    return name if name in _DRIVERS else ""


def _card(gpu: Path, host_bytes: int) -> _Card:
    """What the kernel tells: neither driver has a marketing name, i915 no memory size."""
    number = _read(gpu / "device")
    chip = chip_of(int(number, 16)) if number else None
    address = gpu.resolve().name
    integrated = address == _INTEGRATED_ADDRESS
    tiles = sorted(gpu.glob("tile[0-9]*"))
    memory = _read(tiles[0] / "physical_vram_size_bytes") if tiles else ""
    numa = _read(gpu / "numa_node")
    files = sorted(path.name for path in (gpu / "drm").glob("renderD*"))
    device = DeviceDescription(
        index=0,
        name=f"Intel {chip.name if chip else 'GPU'} {number}".strip(),
        arch=chip.family.value if chip else "",
        total_bytes=host_bytes if integrated else int(memory) if memory.isdigit() else 0,
        driver=_driver(gpu),
        numa_node=int(numa) if numa.isdigit() else None,
        unified=integrated,
    )
    count = max(len(tiles), 1)
    if chip and chip.family is Family.XE_HPC and not tiles:
        # i915 has a folder for each tile of this chip; of others also for their media engines.
        count = max(len(list((gpu / "drm").glob("card*/gt/gt[0-9]*"))), 1)
    return _Card(RenderNode(device, files[0] if files else ""), address, count)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
