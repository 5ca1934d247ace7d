"""What torch says of a GPU, and what follows: family, memory, graphs. `torch.xpu` is played by a
few numbers, for a torch without XPU has no devices."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from windlass.backend import GraphSupport
from windlass.plugin.host_memory import HostMemory
from windlass_xpu import device
from windlass_xpu.backend import capabilities
from windlass_xpu.chips import Family
from windlass_xpu.device import XpuDevice, family_of, graph_support, is_integrated, units_of


def properties(**changes: object) -> Any:
    """A Battlemage's, as torch 2.13 tells them."""
    told: dict[str, object] = {
        "device_id": 0xE20B,
        "gpu_eu_count": 160,
        "gpu_subslice_count": 20,
        "sub_group_sizes": [16, 32],
        "has_bfloat16_conversions": True,
        "has_subgroup_matrix_multiply_accumulate": True,
        "has_subgroup_2d_block_io": True,
        "is_integrated_gpu": False,
    }
    return SimpleNamespace(**told | changes)


def test_an_older_torch_tells_less() -> None:
    told = properties()
    assert (family_of(told), units_of(told), is_integrated(told)) == (Family.XE2, 20, False)
    for name in ("device_id", "is_integrated_gpu"):
        delattr(told, name)
    assert (family_of(told), is_integrated(told)) == (Family.XE2, False)
    assert units_of(properties(gpu_subslice_count=0)) == 20


def test_an_unknown_chip_takes_the_family_that_it_can_do_as_much_as() -> None:
    arrow = properties(
        device_id=0xFFFF, sub_group_sizes=[8, 16, 32], has_subgroup_2d_block_io=False
    )
    assert family_of(arrow) is Family.XE_HPG
    old = properties(device_id=0xFFFF, has_subgroup_matrix_multiply_accumulate=False)
    assert family_of(old) is Family.XE_LP


@pytest.mark.parametrize(("integrated", "free"), [(False, 10 << 30), (True, 3 << 30)])
def test_an_integrated_gpu_has_no_more_memory_than_the_process(
    monkeypatch: pytest.MonkeyPatch, integrated: bool, free: int
) -> None:
    told = properties(is_integrated_gpu=integrated)
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda index: told)
    monkeypatch.setattr(torch.xpu, "mem_get_info", lambda at: (10 << 30, 12 << 30))
    for name in ("memory_allocated", "memory_reserved", "max_memory_allocated"):
        monkeypatch.setattr(torch.xpu, name, lambda at: 1 << 30)
    host = HostMemory(total=8 << 30, available=3 << 30)
    monkeypatch.setattr(device, "host_memory", lambda: host)
    memory = XpuDevice(0).memory()
    assert memory.free == free
    assert memory.total == ((8 if integrated else 12) << 30)
    assert memory.peak == 1 << 30


@pytest.mark.parametrize(
    ("version", "support"),
    [
        ("2.11.0+xpu", GraphSupport.NONE),
        ("2.13.1+xpu", GraphSupport.NONE),
        ("2.14.0a0+git1234", GraphSupport.DECODE_UNIFORM),
        ("2.14.0+xpu", GraphSupport.DECODE_UNIFORM),
    ],
)
def test_steps_are_captured_from_torch_2_14_on(version: str, support: GraphSupport) -> None:
    assert graph_support(version) is support


def test_capabilities_follow_the_gpu_and_the_torch() -> None:
    discrete = capabilities(
        integrated=False, has_bfloat16=True, has_xccl=True, graph=GraphSupport.NONE
    )
    assert discrete.dtypes[0] is torch.bfloat16
    assert discrete.collectives == ("xccl", "gloo")
    assert not discrete.unified_memory
    laptop = capabilities(
        integrated=True, has_bfloat16=False, has_xccl=False, graph=GraphSupport.NONE
    )
    assert torch.bfloat16 not in laptop.dtypes
    assert laptop.collectives == ("gloo",)
    assert laptop.unified_memory
    assert laptop.memory_utilization < discrete.memory_utilization
    assert laptop.default_kv_cache_bytes > 0
