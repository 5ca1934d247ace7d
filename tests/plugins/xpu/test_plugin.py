"""The xpu plugin's probe over recorded trees of sysfs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from windlass.plugin import Availability, Status, TorchBuild
from windlass_xpu.plugin import probe
from windlass_xpu.sysfs import visible_nodes

XPU_TORCH = TorchBuild("2.13.0+xpu", {"xpu": "20250301"})


@pytest.fixture
def drm(tmp_path: Path) -> Path:
    """An integrated GPU, a Battlemage, another vendor's, one given away, and other things."""
    folder = tmp_path / "drm"
    folder.mkdir()
    add_card(tmp_path, 0, "0000:00:02.0", device="0x46a6", driver="i915")
    add_card(tmp_path, 1, "0000:65:00.0", vendor="0x10de", device="0x2684", driver="nvidia")
    add_card(tmp_path, 2, "0000:8a:00.0", device="0xe20b", driver="xe", numa_node="1", tiles=1)
    add_card(tmp_path, 3, "0000:8b:00.0", device="0xe20b", driver="vfio-pci")
    (folder / "card0-HDMI-A-1").mkdir()
    (folder / "renderD128").mkdir()
    return folder


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    """An integrated GPU alone."""
    (tmp_path / "laptop" / "drm").mkdir(parents=True)
    add_card(tmp_path / "laptop", 0, "0000:00:02.0", device="0x64a0", driver="xe")
    return tmp_path / "laptop" / "drm"


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """Two Ponte Vecchio of two tiles each: one with the driver xe, one with i915."""
    (tmp_path / "server" / "drm").mkdir(parents=True)
    add_card(tmp_path / "server", 1, "0000:9a:00.0", device="0x0bd5", driver="i915")
    for tile in range(2):
        gt = tmp_path / "server" / "devices" / "0000:9a:00.0" / "drm" / "card1" / "gt" / f"gt{tile}"
        gt.mkdir(parents=True)
    add_card(tmp_path / "server", 2, "0000:29:00.0", device="0x0bd5", driver="xe", tiles=2)
    return tmp_path / "server" / "drm"


def add_card(
    root: Path,
    number: int,
    address: str,
    *,
    device: str,
    driver: str,
    vendor: str = "0x8086",
    numa_node: str = "-1",
    tiles: int = 0,
) -> None:
    gpu = root / "devices" / address
    (gpu / "drm" / f"renderD{128 + number}").mkdir(parents=True)
    facts = {"vendor": vendor, "device": device, "numa_node": numa_node}
    for name, value in facts.items():
        (gpu / name).write_text(f"{value}\n")
    for tile in range(tiles):
        (gpu / f"tile{tile}").mkdir()
        (gpu / f"tile{tile}" / "physical_vram_size_bytes").write_text(f"{12 << 30}\n")
    (root / "drivers" / driver).mkdir(parents=True, exist_ok=True)
    (gpu / "driver").symlink_to(root / "drivers" / driver)
    card = root / "drm" / f"card{number}"
    card.mkdir()
    (card / "device").symlink_to(gpu)


@pytest.fixture
def device_files(tmp_path: Path) -> Path:
    folder = tmp_path / "dri"
    folder.mkdir()
    for number in (0, 2):
        (folder / f"renderD{128 + number}").touch()
    return folder


def ask(
    drm: Path,
    device_files: Path,
    torch: TorchBuild | None = XPU_TORCH,
    *,
    loader_present: bool = True,
    environ: Mapping[str, str] | None = None,
) -> Availability:
    return probe(
        torch, drm, device_files, lambda: loader_present, environ or {}, host_bytes=32 << 30
    )


def test_a_gpu_is_described_by_what_the_kernel_tells(drm: Path, device_files: Path) -> None:
    said = ask(drm, device_files)
    assert said.status is Status.AVAILABLE
    (gpu,) = said.devices
    assert (gpu.index, gpu.name) == (0, "Intel Battlemage 0xe20b")
    assert (gpu.arch, gpu.driver, gpu.total_bytes) == ("xe2", "xe", 12 << 30)
    assert (gpu.unified, gpu.numa_node) == (False, 1)


def test_an_integrated_gpu_counts_only_alone_and_shares_the_machine_s_memory(
    laptop: Path, device_files: Path
) -> None:
    (gpu,) = ask(laptop, device_files).devices
    assert (gpu.name, gpu.arch) == ("Intel Lunar Lake 0x64a0", "xe2")
    assert (gpu.unified, gpu.total_bytes) == (True, 32 << 30)


@pytest.mark.parametrize(
    ("environ", "addresses"),
    [
        ({}, [0x29, 0x29, 0x9A, 0x9A]),
        ({"ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE"}, [0x29, 0x9A]),
        ({"ZE_AFFINITY_MASK": "1,2"}, [0x29, 0x9A]),
        ({"ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE", "ZE_AFFINITY_MASK": "1.0,1.1"}, [0x9A]),
    ],
)
def test_tiles_are_devices_unless_the_hierarchy_is_composite(
    server: Path, environ: Mapping[str, str], addresses: list[int]
) -> None:
    nodes = visible_nodes(server, environ)
    assert [node.device.index for node in nodes] == list(range(len(nodes)))
    files = {0x29: "renderD130", 0x9A: "renderD129"}
    assert [node.file for node in nodes] == [files[address] for address in addresses]
    assert {node.device.arch for node in nodes} == {"xe_hpc"}


@pytest.mark.parametrize(
    ("mask", "names"),
    [
        ("0", ["Intel Battlemage 0xe20b"]),
        ("1", ["Intel Alder Lake 0x46a6"]),
        ("0,1", ["Intel Battlemage 0xe20b"]),
        ("7", []),
    ],
)
def test_the_affinity_mask_chooses_before_torch_drops_the_integrated_gpu(
    drm: Path, device_files: Path, mask: str, names: list[str]
) -> None:
    said = ask(drm, device_files, environ={"ZE_AFFINITY_MASK": mask})
    assert [device.name for device in said.devices] == names
    if not names:
        assert said.reason == "no Intel GPU is left visible by ZE_AFFINITY_MASK='7'"


@pytest.mark.parametrize(
    ("torch", "reason"),
    [
        (None, "torch is not installed"),
        (TorchBuild("2.13.0+cpu", {}), "torch 2.13.0+cpu is built without XPU"),
    ],
)
def test_without_an_xpu_build_of_torch_it_is_not_installed_and_names_idle_gpus(
    drm: Path, device_files: Path, torch: TorchBuild | None, reason: str
) -> None:
    said = ask(drm, device_files, torch)
    assert (said.status, said.reason) == (Status.NOT_INSTALLED, reason)
    assert len(said.devices) == 1


def test_without_an_intel_gpu_there_is_no_device(tmp_path: Path, device_files: Path) -> None:
    said = ask(tmp_path / "absent", device_files)
    assert said.status is Status.NO_DEVICE
    assert "xe or i915" in said.reason


def test_a_gpu_without_level_zero_is_broken(drm: Path, device_files: Path) -> None:
    said = ask(drm, device_files, loader_present=False)
    assert said.status is Status.BROKEN
    assert "libze_loader.so.1" in said.reason
    assert "compute runtime" in said.hint


def test_a_device_file_that_is_missing_is_broken_and_named(drm: Path, device_files: Path) -> None:
    (device_files / "renderD130").unlink()
    said = ask(drm, device_files)
    assert said.status is Status.BROKEN
    assert "renderD130" in said.reason
