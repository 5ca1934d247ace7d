"""The tables for each family. What they are worth shows on a GPU alone; here they must be legal."""

from __future__ import annotations

import pytest
import torch

from windlass.backend.triton.kernel_specs import kernel_specs
from windlass_xpu.chips import Family, chip_of, family_by_features
from windlass_xpu.tuning import XpuTuning

LARGE_MODE_WARPS = 32
REGISTER_FILE = 16 << 10
"""Bytes of a sub-group in large mode."""


@pytest.mark.parametrize("family", Family)
def test_every_kernel_has_a_configuration_that_the_chip_can_launch(family: Family) -> None:
    specs = kernel_specs(XpuTuning(family.value, 16))
    for spec in specs:
        options = spec.config.launch_options()
        assert options["warp_size"] in (16, 32), spec.name
        if options.get("grf_mode") == "256":
            assert options["num_warps"] <= LARGE_MODE_WARPS, spec.name
    large = {spec.name for spec in specs if ("grf_mode", "256") in spec.config.options}
    assert all(name.startswith("paged") or name == "plan decodes" for name in large)
    assert bool(large) == (family is not Family.XE_LP)


@pytest.mark.parametrize("head_dim", [64, 80, 128, 256])
def test_a_tile_of_keys_and_the_running_sum_fit_the_registers_of_a_sub_group(head_dim: int) -> None:
    tuning = XpuTuning("xe2", 20)
    channels = 1 << (head_dim - 1).bit_length()
    prefill = tuning.prefill_config(head_dim, torch.bfloat16, 4)
    decode = tuning.decode_config(head_dim, torch.bfloat16, torch.bfloat16)
    for rows, config in ((prefill.query_rows, prefill), (16, decode)):
        rows_of_one = rows // config.num_warps
        assert rows_of_one >= 8
        keys = config.tile * channels * 2
        total = rows_of_one * channels * 4
        assert keys + total <= REGISTER_FILE
        assert 64 % config.tile == 0


def test_families_without_matrix_units_for_triton_and_float32_take_small_tiles() -> None:
    plain = XpuTuning("xe_hpg", 32).prefill_config(128, torch.bfloat16, 4)
    exact = XpuTuning("xe_hpc", 64).prefill_config(128, torch.float32, 4)
    assert plain == XpuTuning("xe_hpg", 32).prefill_config(128, torch.float32, 4)
    assert (plain.query_rows, plain.tile, plain.chunk) == (32, 16, 16)
    assert (exact.query_rows, exact.tile, exact.chunk) == (32, 16, 16)


def test_no_family_has_fp8() -> None:
    for family in Family:
        support = XpuTuning(family.value, 16).supports_kv(torch.float8_e4m3fn)
        assert support.reason == f"{family.value} cannot convert fp8"


@pytest.mark.parametrize(
    ("device_id", "name", "family"),
    [
        (0x46A6, "Alder Lake", Family.XE_LP),
        (0x56A0, "Alchemist", Family.XE_HPG),
        (0x0BDA, "Ponte Vecchio", Family.XE_HPC),
        (0x64A0, "Lunar Lake", Family.XE2),
        (0xE20B, "Battlemage", Family.XE2),
    ],
)
def test_a_chip_is_known_by_its_pci_id(device_id: int, name: str, family: Family) -> None:
    chip = chip_of(device_id)
    assert chip is not None
    assert (chip.name, chip.family) == (name, family)


def test_an_unknown_chip_is_judged_by_what_it_can() -> None:
    assert chip_of(0x3E92) is None
    assert chip_of(0x674C) is None
    assert family_by_features(matrix_lanes=16, block_loads=True) is Family.XE2
    assert family_by_features(matrix_lanes=8, block_loads=False) is Family.XE_HPG
    assert family_by_features(matrix_lanes=0, block_loads=False) is Family.XE_LP
