"""The cuda plugin's probe over a stand-in for the driver's library and a PCI tree."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from windlass.plugin import Availability, Status, TorchBuild
from windlass_cuda.nvml import DRIVER_NOT_LOADED, load_library
from windlass_cuda.plugin import probe

CUDA_TORCH = TorchBuild("2.13.0+cu128", {"cuda": "12.8"})
ROCM_TORCH = TorchBuild("2.13.0+rocm7", {"hip": "7.0"})
CPU_TORCH = TorchBuild("2.13.0+cpu", {})

H100 = "GPU-aaaa1111-0000-0000-0000-000000000000"
A100 = "GPU-bbbb2222-0000-0000-0000-000000000000"
MIG = "MIG-cccc3333-0000-0000-0000-000000000000"


def fill(pointer: Any, value: Any) -> int:
    pointer._obj.value = value
    return 0


@dataclass
class FakeNvml:
    """The C functions that are used, with two GPUs and a part of the second (MIG).

    A handle is the device's number plus one: a null pointer is no handle. `errors` maps a
    function to the error code that it returns.
    """

    cuda_version: int = 12080
    count: int = 2
    errors: dict[str, int] = field(default_factory=dict)
    open: int = 0

    names = (b"NVIDIA H100", b"NVIDIA A100", b"NVIDIA A100 MIG 1g.10gb")
    uuids = (H100.encode(), A100.encode(), MIG.encode())
    memory = (80 << 30, 40 << 30, 10 << 30)
    capability = ((9, 0), (8, 0))

    def nvmlInit_v2(self) -> int:
        self.open += 1
        return self.errors.get("nvmlInit_v2", 0)

    def nvmlShutdown(self) -> int:
        self.open -= 1
        return 0

    def nvmlErrorString(self, code: int) -> bytes:
        return {DRIVER_NOT_LOADED: b"Driver Not Loaded"}.get(code, b"Unknown Error")

    def nvmlSystemGetDriverVersion(self, text: Any, size: ctypes.c_uint) -> int:
        text.value = b"570.86.15"
        return 0

    def nvmlSystemGetCudaDriverVersion_v2(self, number: Any) -> int:
        return fill(number, self.cuda_version)

    def nvmlDeviceGetCount_v2(self, number: Any) -> int:
        return fill(number, self.count)

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, handle: Any) -> int:
        return fill(handle, index.value + 1)

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        return fill(handle, self.uuids.index(uuid) + 1) if uuid in self.uuids else 6

    def nvmlDeviceGetName(self, handle: Any, text: Any, size: ctypes.c_uint) -> int:
        text.value = self.names[handle.value - 1]
        return 0

    def nvmlDeviceGetUUID(self, handle: Any, text: Any, size: ctypes.c_uint) -> int:
        text.value = self.uuids[handle.value - 1]
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        memory._obj.total = self.memory[handle.value - 1]
        return self.errors.get("nvmlDeviceGetMemoryInfo", 0)

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any, major: Any, minor: Any) -> int:
        if handle.value > len(self.capability):
            return 3
        fill(major, self.capability[handle.value - 1][0])
        return fill(minor, self.capability[handle.value - 1][1])


@pytest.fixture
def pci(tmp_path: Path) -> Path:
    """The PCI devices of a machine without an NVIDIA GPU."""
    add_pci_device(tmp_path, "0000:00:02.0", "0x8086", "0x030000")
    return tmp_path


def add_pci_device(pci: Path, address: str, vendor: str, kind: str) -> None:
    (pci / address).mkdir()
    (pci / address / "vendor").write_text(f"{vendor}\n")
    (pci / address / "class").write_text(f"{kind}\n")


def ask(
    pci: Path,
    library: FakeNvml | None,
    torch: TorchBuild | None = CUDA_TORCH,
    environ: Mapping[str, str] | None = None,
) -> Availability:
    answer = probe(torch, library, pci, environ or {})
    assert library is None or library.open == 0 or library.errors
    return answer


def test_every_gpu_is_described(pci: Path) -> None:
    said = ask(pci, FakeNvml())
    assert said.status is Status.AVAILABLE
    h100, a100 = said.devices
    assert (h100.index, h100.name, h100.arch, h100.uuid) == (0, "NVIDIA H100", "sm_90", H100)
    assert (h100.total_bytes, h100.driver) == (80 << 30, "570.86.15")
    assert (a100.index, a100.arch) == (1, "sm_80")


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [
        ("0,1", [H100, A100]),
        ("1,0", [A100, H100]),
        ("1", [A100]),
        (" 1 , 0 ", [A100, H100]),
        ("0,7,1", [H100]),
        ("0,-1,1", [H100]),
        (A100, [A100]),
        ("GPU-bbbb", [A100]),
        (f"{MIG},0", [MIG, H100]),
        ("MIG-unknown", []),
        ("GPU-unknown", []),
        ("", []),
    ],
)
def test_cuda_visible_devices_chooses_and_numbers_as_cuda_does(
    pci: Path, visible: str, uuids: list[str]
) -> None:
    said = ask(pci, FakeNvml(), environ={"CUDA_VISIBLE_DEVICES": visible})
    assert [device.uuid for device in said.devices] == uuids
    assert [device.index for device in said.devices] == list(range(len(uuids)))
    if not uuids:
        assert said.status is Status.NO_DEVICE
        assert f"CUDA_VISIBLE_DEVICES={visible!r}" in said.reason


@pytest.mark.parametrize(
    ("torch", "reason"),
    [
        (None, "torch is not installed"),
        (CPU_TORCH, "torch 2.13.0+cpu is built without CUDA"),
        (ROCM_TORCH, "torch 2.13.0+rocm7 is a ROCm build, not a CUDA one"),
    ],
)
def test_without_a_cuda_build_of_torch_it_is_not_installed_and_names_idle_gpus(
    pci: Path, torch: TorchBuild | None, reason: str
) -> None:
    with_gpus = ask(pci, FakeNvml(), torch)
    assert (with_gpus.status, with_gpus.reason) == (Status.NOT_INSTALLED, reason)
    assert len(with_gpus.devices) == 2
    assert "pip install 'windlass[cuda]'" in with_gpus.hint
    without_driver = ask(pci, None, torch)
    assert (without_driver.status, without_driver.devices) == (Status.NOT_INSTALLED, ())
    dead_driver = ask(pci, FakeNvml(errors={"nvmlInit_v2": 999}), torch)
    assert (dead_driver.status, dead_driver.devices) == (Status.NOT_INSTALLED, ())


def test_without_the_drivers_library_there_is_no_device(pci: Path) -> None:
    said = ask(pci, None)
    assert said.status is Status.NO_DEVICE
    assert said.reason == "neither an NVIDIA GPU nor its driver is here"


def test_a_gpu_on_the_bus_without_its_driver_is_pointed_out(pci: Path) -> None:
    add_pci_device(pci, "0000:65:00.0", "0x10de", "0x030200")
    said = ask(pci, None)
    assert said.status is Status.NO_DEVICE
    assert "an NVIDIA GPU is on the PCI bus" in said.reason
    assert "container" in said.hint


def test_an_nvidia_sound_device_is_no_gpu(pci: Path) -> None:
    add_pci_device(pci, "0000:65:00.1", "0x10de", "0x040300")
    assert "PCI bus" not in ask(pci, None).reason


def test_a_library_without_any_gpu_is_no_device(pci: Path) -> None:
    said = ask(pci, FakeNvml(errors={"nvmlInit_v2": DRIVER_NOT_LOADED}))
    assert said.status is Status.NO_DEVICE
    assert ask(pci, FakeNvml(count=0)).reason == "the driver lists no GPU"


def test_a_gpu_whose_driver_does_not_load_is_broken(pci: Path) -> None:
    add_pci_device(pci, "0000:65:00.0", "0x10de", "0x030000")
    said = ask(pci, FakeNvml(errors={"nvmlInit_v2": DRIVER_NOT_LOADED}))
    assert said.status is Status.BROKEN
    assert said.reason == "the NVIDIA driver does not answer: nvmlInit_v2: Driver Not Loaded"


def test_an_error_of_nvml_is_broken_in_its_own_words(pci: Path) -> None:
    library = FakeNvml(errors={"nvmlDeviceGetMemoryInfo": 999})
    said = ask(pci, library)
    assert said.status is Status.BROKEN
    assert "nvmlDeviceGetMemoryInfo: Unknown Error" in said.reason
    assert library.open == 0


@pytest.mark.parametrize(
    ("driver", "built_for", "status"),
    [
        (11080, "12.8", Status.BROKEN),
        (12000, "12.8", Status.AVAILABLE),
        (13000, "12.8", Status.AVAILABLE),
        (12090, "13.0", Status.BROKEN),
    ],
)
def test_a_driver_of_an_older_major_version_than_torchs_is_broken(
    pci: Path, driver: int, built_for: str, status: Status
) -> None:
    torch = TorchBuild(f"2.13.0+cu{built_for}", {"cuda": built_for})
    said = ask(pci, FakeNvml(cuda_version=driver), torch)
    assert said.status is status
    if status is Status.BROKEN:
        supported = f"{driver // 1000}.{driver % 1000 // 10}"
        assert f"built for CUDA {built_for}" in said.reason
        assert f"supports CUDA {supported} at most" in said.reason
        assert len(said.devices) == 2


def test_a_library_that_is_not_installed_loads_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windlass_cuda.nvml.LIBRARY_NAMES", ("libwindlass-has-no-such.so.1",))
    assert load_library() is None
