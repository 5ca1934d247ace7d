"""Intel GPUs as the kernel's xe and i915 drivers show them in sysfs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from windlass.plugin import DeviceDescription

_INTEL_VENDOR = "0x8086"
_DRIVERS = ("xe", "i915")
_INTEGRATED_ADDRESS = "0000:00:02.0"
"""Where Intel puts the GPU that shares the processor's memory."""


@dataclass(frozen=True)
class RenderNode:
    """A GPU with the device file that programs open to compute on it."""

    device: DeviceDescription
    file: str


def visible_nodes(drm: Path, environ: Mapping[str, str]) -> tuple[RenderNode, ...]:
    """The Intel GPUs that ZE_AFFINITY_MASK leaves, numbered in the order of their cards.

    The kernel tells neither marketing name nor memory size: the name is the PCI device id and
    the size is unknown (0).
    """
    cards = [card for card in drm.glob("card*") if re.fullmatch(r"card\d+", card.name)]
    cards.sort(key=lambda card: int(card.name.removeprefix("card")))
    gpus = [card / "device" for card in cards if _driver(card / "device")]
    mask = environ.get("ZE_AFFINITY_MASK")
    if mask is not None:
        # An entry is a device or "device.tile".
        wanted = {entry.strip().split(".")[0] for entry in mask.split(",")}
        gpus = [gpu for number, gpu in enumerate(gpus) if str(number) in wanted]
    return tuple(_describe(index, gpu) for index, gpu in enumerate(gpus))


def _driver(gpu: Path) -> str:
    """The name of the kernel driver when this is an Intel GPU, else empty."""
    if _read(gpu / "vendor") != _INTEL_VENDOR:
        return ""
    name = (gpu / "driver").resolve().name
    return name if name in _DRIVERS else ""


def _describe(index: int, gpu: Path) -> RenderNode:
    node = _read(gpu / "numa_node")
    files = sorted(path.name for path in (gpu / "drm").glob("renderD*"))
    device = DeviceDescription(
        index=index,
        name=f"Intel GPU {_read(gpu / 'device')}",
        driver=_driver(gpu),
        numa_node=int(node) if node.isdigit() else None,
        unified=gpu.resolve().name == _INTEGRATED_ADDRESS,
    )
    return RenderNode(device, files[0] if files else "")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
