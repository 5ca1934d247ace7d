"""The xpu plugin's probe over recorded trees of sysfs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from windlass.plugin import Availability, Status, TorchBuild
from windlass_xpu.plugin import probe

XPU_TORCH = TorchBuild("2.13.0+xpu", {"xpu": "20250301"})


@pytest.fixture
def drm(tmp_path: Path) -> Path:
    """An integrated and a discrete Intel GPU, another vendor's, and what else lies there."""
    folder = tmp_path / "drm"
    folder.mkdir()
    add_card(tmp_path, 0, "0000:00:02.0", device="0x46a6", driver="i915")
    add_card(tmp_path, 1, "0000:65:00.0", vendor="0x10de", device="0x2684", driver="nvidia")
    add_card(tmp_path, 2, "0000:8a:00.0", device="0xe20b", driver="xe", numa_node="1")
    add_card(tmp_path, 3, "0000:8b:00.0", device="0xe20b", driver="vfio-pci")
    (folder / "card0-HDMI-A-1").mkdir()
    (folder / "renderD128").mkdir()
    return folder


def add_card(
    root: Path,
    number: int,
    address: str,
    *,
    device: str,
    driver: str,
    vendor: str = "0x8086",
    numa_node: str = "-1",
) -> None:
    gpu = root / "devices" / address
    (gpu / "drm" / f"renderD{128 + number}").mkdir(parents=True)
    facts = {"vendor": vendor, "device": device, "numa_node": numa_node}
    for name, value in facts.items():
        (gpu / name).write_text(f"{value}\n")
    (root / "drivers" / driver).mkdir(parents=True)
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
    return probe(torch, drm, device_files, loader_present, environ or {})


def test_every_gpu_with_an_intel_driver_is_described(drm: Path, device_files: Path) -> None:
    said = ask(drm, device_files)
    assert said.status is Status.AVAILABLE
    integrated, discrete = said.devices
    assert (integrated.index, integrated.name, integrated.driver) == (0, "Intel GPU 0x46a6", "i915")
    assert (integrated.unified, integrated.numa_node) == (True, None)
    assert (discrete.index, discrete.name, discrete.driver) == (1, "Intel GPU 0xe20b", "xe")
    assert (discrete.unified, discrete.numa_node) == (False, 1)


@pytest.mark.parametrize(
    ("mask", "names"),
    [
        ("1", ["Intel GPU 0xe20b"]),
        ("0,1", ["Intel GPU 0x46a6", "Intel GPU 0xe20b"]),
        ("1.0,1.1", ["Intel GPU 0xe20b"]),
        ("7", []),
    ],
)
def test_the_affinity_mask_leaves_devices_or_tiles_of_them(
    drm: Path, device_files: Path, mask: str, names: list[str]
) -> None:
    said = ask(drm, device_files, environ={"ZE_AFFINITY_MASK": mask})
    assert [device.name for device in said.devices] == names
    assert [device.index for device in said.devices] == list(range(len(names)))
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
    assert len(said.devices) == 2


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
