"""The rocm plugin's probe over recorded trees of sysfs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from windlass.plugin import Availability, Status, TorchBuild
from windlass_rocm.kfd import architecture_of_version
from windlass_rocm.plugin import SPEC, SystemPaths, probe

ROCM_TORCH = TorchBuild("2.13.0+rocm7", {"hip": "7.0.51831"})
FIRST, SECOND = "GPU-00000000000000aa", "GPU-00000000000000bb"


@pytest.fixture
def machine(tmp_path: Path) -> SystemPaths:
    """A processor (node 0) and two MI300X (nodes 1 and 10)."""
    topology, drm = tmp_path / "topology", tmp_path / "drm"
    add_node(topology, 0, cpu_cores_count=96, simd_count=0, gfx_target_version=0)
    for node, unique_id in ((1, 0xAA), (10, 0xBB)):
        add_node(
            topology,
            node,
            cpu_cores_count=0,
            simd_count=1216,
            gfx_target_version=90402,
            unique_id=unique_id,
            drm_render_minor=128 + node,
        )
        add_bank(topology, node, 0, heap_type=1, size_in_bytes=206141652992)
        add_bank(topology, node, 1, heap_type=4, size_in_bytes=65536)
    product = drm / "renderD129/device"
    product.mkdir(parents=True)
    (product / "product_name").write_text("AMD Instinct MI300X\n")
    (tmp_path / "version").write_text("6.14.5\n")
    (tmp_path / "kfd").touch()
    return SystemPaths(
        topology=topology,
        drm=drm,
        driver_version=tmp_path / "version",
        device=tmp_path / "kfd",
    )


def add_node(topology: Path, number: int, **properties: int) -> None:
    folder = topology / "nodes" / str(number)
    folder.mkdir(parents=True)
    write_properties(folder / "properties", properties)


def add_bank(topology: Path, node: int, number: int, **properties: int) -> None:
    folder = topology / "nodes" / str(node) / "mem_banks" / str(number)
    folder.mkdir(parents=True)
    write_properties(folder / "properties", properties)


def write_properties(path: Path, properties: Mapping[str, int]) -> None:
    path.write_text("".join(f"{name} {value}\n" for name, value in properties.items()))


def ask(
    paths: SystemPaths,
    torch: TorchBuild | None = ROCM_TORCH,
    environ: Mapping[str, str] | None = None,
) -> Availability:
    return probe(torch, paths, environ or {})


def test_every_gpu_of_the_topology_is_described(machine: SystemPaths) -> None:
    said = ask(machine)
    assert said.status is Status.AVAILABLE
    first, second = said.devices
    assert (first.index, first.name, first.arch) == (0, "AMD Instinct MI300X", "gfx942")
    assert (first.total_bytes, first.uuid, first.driver) == (206141652992, FIRST, "6.14.5")
    assert not first.unified
    assert (second.index, second.name, second.uuid) == (1, "AMD GPU gfx942", SECOND)


@pytest.mark.parametrize(
    ("version", "arch"),
    [
        (90010, "gfx90a"),
        (90402, "gfx942"),
        (90500, "gfx950"),
        (100300, "gfx1030"),
        (110000, "gfx1100"),
        (120001, "gfx1201"),
    ],
)
def test_a_target_version_is_named_as_the_compiler_names_it(version: int, arch: str) -> None:
    assert architecture_of_version(version) == arch


def test_a_gpu_that_shares_the_processors_memory_is_unified(machine: SystemPaths) -> None:
    add_node(machine.topology, 11, cpu_cores_count=16, simd_count=32, gfx_target_version=110501)
    apu = ask(machine).devices[-1]
    assert (apu.arch, apu.unified, apu.uuid) == ("gfx1151", True, "")


@pytest.mark.parametrize(
    ("environ", "uuids"),
    [
        ({"ROCR_VISIBLE_DEVICES": "1"}, [SECOND]),
        ({"HIP_VISIBLE_DEVICES": "1,0"}, [SECOND, FIRST]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, [SECOND]),
        ({"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"}, [FIRST]),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, [SECOND]),
        ({"ROCR_VISIBLE_DEVICES": SECOND}, [SECOND]),
        ({"HIP_VISIBLE_DEVICES": "0,9,1"}, [FIRST]),
        ({"HIP_VISIBLE_DEVICES": ""}, []),
    ],
)
def test_visible_devices_are_chosen_and_numbered_as_hip_does(
    machine: SystemPaths, environ: Mapping[str, str], uuids: list[str]
) -> None:
    said = ask(machine, environ=environ)
    assert [device.uuid for device in said.devices] == uuids
    assert [device.index for device in said.devices] == list(range(len(uuids)))
    if not uuids:
        assert said.status is Status.NO_DEVICE
        assert said.reason == "no AMD GPU is left visible by HIP_VISIBLE_DEVICES=''"


def test_two_variables_that_disagree_are_told(machine: SystemPaths) -> None:
    said = ask(machine, environ={"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"})
    assert said.reason == "HIP_VISIBLE_DEVICES='0' counts, and CUDA_VISIBLE_DEVICES='1' does not"
    same = ask(machine, environ={"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "0"})
    assert same.reason == ""


def test_a_gpu_without_matrix_instructions_is_no_device(machine: SystemPaths) -> None:
    add_node(machine.topology, 11, cpu_cores_count=0, simd_count=80, gfx_target_version=100300)
    assert ask(machine).status is Status.AVAILABLE
    said = ask(machine, environ={"HIP_VISIBLE_DEVICES": "2,0"})
    assert said.status is Status.NO_DEVICE
    assert "gfx1030 has no matrix instructions" in said.reason
    assert said.hint == "choose another GPU with HIP_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("torch", "reason"),
    [
        (None, "torch is not installed"),
        (TorchBuild("2.13.0+cpu", {}), "torch 2.13.0+cpu is built without ROCm"),
        (
            TorchBuild("2.13.0+cu128", {"cuda": "12.8"}),
            "torch 2.13.0+cu128 is a CUDA build, not a ROCm one",
        ),
    ],
)
def test_without_a_rocm_build_of_torch_it_is_not_installed_and_names_idle_gpus(
    machine: SystemPaths, torch: TorchBuild | None, reason: str
) -> None:
    said = ask(machine, torch)
    assert (said.status, said.reason) == (Status.NOT_INSTALLED, reason)
    assert len(said.devices) == 2


def test_without_the_kernel_driver_there_is_no_device(tmp_path: Path) -> None:
    said = ask(SystemPaths(topology=tmp_path / "absent"))
    assert said.status is Status.NO_DEVICE
    assert "no amdgpu driver" in said.reason


def test_a_topology_of_processors_alone_has_no_device(tmp_path: Path) -> None:
    add_node(tmp_path, 0, cpu_cores_count=8, simd_count=0, gfx_target_version=0)
    said = ask(SystemPaths(topology=tmp_path))
    assert (said.status, said.reason) == (Status.NO_DEVICE, "no AMD GPU was found")


def test_a_container_without_the_device_file_is_told_how_to_get_it(machine: SystemPaths) -> None:
    said = ask(machine._replace(device=Path("/dev/windlass-has-no-such")))
    assert said.status is Status.NO_DEVICE
    assert "--device /dev/kfd" in said.hint


def test_a_device_file_that_may_not_be_opened_is_broken(
    machine: SystemPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    said = ask(machine)
    assert said.status is Status.BROKEN
    assert "groups render and video" in said.hint


def test_torch_calls_the_device_of_rocm_cuda() -> None:
    assert SPEC.device_type == "cuda"
