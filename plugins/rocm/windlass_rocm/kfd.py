"""AMD's kernel fusion driver (KFD): its topology in sysfs lists GPUs without any library.

Reference: Linux, drivers/gpu/drm/amd/amdkfd/kfd_topology.c.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from windlass.plugin import DeviceDescription

_LOCAL_MEMORY = ("1", "2")
"""Heap types of a memory bank that is the GPU's own: visible to the host, and not."""


def visible_devices(
    topology: Path, drm: Path, environ: Mapping[str, str], driver: str = ""
) -> tuple[DeviceDescription, ...]:
    """The GPUs that HIP shows, numbered as there.

    ROCR_VISIBLE_DEVICES is applied first; HIP_VISIBLE_DEVICES or else CUDA_VISIBLE_DEVICES
    counts within what is left.
    """
    folders = sorted((topology / "nodes").glob("*"), key=lambda folder: int(folder.name))
    found = [_describe(folder, drm, driver) for folder in folders]
    devices = [device for device in found if device is not None]
    devices = _filter(devices, environ.get("ROCR_VISIBLE_DEVICES"))
    second = environ.get("HIP_VISIBLE_DEVICES", environ.get("CUDA_VISIBLE_DEVICES"))
    return tuple(
        replace(device, index=index) for index, device in enumerate(_filter(devices, second))
    )


def architecture_of_version(version: int) -> str:
    """`gfx_target_version` as a name: 90402 is gfx942, 90010 is gfx90a, 110000 is gfx1100."""
    major, minor, stepping = version // 10000, version // 100 % 100, version % 100
    return f"gfx{major}{minor:x}{stepping:x}"


def _describe(folder: Path, drm: Path, driver: str) -> DeviceDescription | None:
    properties = read_properties(folder / "properties")
    version = int(properties.get("gfx_target_version", 0))
    if not version or properties.get("simd_count", "0") == "0":
        return None
    banks = [read_properties(path) for path in (folder / "mem_banks").glob("*/properties")]
    local = [bank for bank in banks if bank.get("heap_type") in _LOCAL_MEMORY]
    arch = architecture_of_version(version)
    unique_id = properties.get("unique_id", "0")
    render_node = drm / f"renderD{properties.get('drm_render_minor', '')}"
    return DeviceDescription(
        index=int(folder.name),
        name=read_text(render_node / "device/product_name") or f"AMD GPU {arch}",
        arch=arch,
        total_bytes=sum(int(bank.get("size_in_bytes", 0)) for bank in local),
        driver=driver,
        uuid=f"GPU-{int(unique_id):016x}" if unique_id != "0" else "",
        unified=properties.get("cpu_cores_count", "0") != "0",
    )


def _filter(devices: list[DeviceDescription], visible: str | None) -> list[DeviceDescription]:
    """Keep what a comma-separated list of indices or UUIDs names, up to the first bad entry."""
    if visible is None:
        return devices
    chosen = []
    for entry in map(str.strip, visible.split(",")):
        if entry.isdigit() and int(entry) < len(devices):
            chosen.append(devices[int(entry)])
        else:
            named = [device for device in devices if device.uuid == entry]
            if not named:
                break
            chosen += named
    return chosen


def read_properties(path: Path) -> dict[str, str]:
    """A sysfs file of "name value" lines; empty when it cannot be read."""
    pairs = (line.split(maxsplit=1) for line in read_text(path).splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def read_text(path: Path) -> str:
    """A sysfs file without surrounding space; empty when it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
