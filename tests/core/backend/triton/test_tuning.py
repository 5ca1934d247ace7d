"""The rules that a tuning has by default: by lanes, rows and shapes."""

from __future__ import annotations

import copy

import pytest
import torch

from windlass.backend.triton.linear_tiles import Tiles
from windlass.backend.triton.quantized_tiles import QuantizedTile, config_of
from windlass.backend.triton.tuning import PrefillRule, TritonTuning, remembered_head_config, up_to

SHAPES = [(4096, 1024), (1024, 3072), (28672, 4096), (4096, 14336), (128256, 4096), (40, 24)]


def with_lanes(neutral: TritonTuning, lanes: int) -> TritonTuning:
    found = copy.copy(neutral)
    found.lanes = lanes
    return found


@pytest.mark.parametrize("lanes", [16, 32, 64])
def test_warps_make_as_many_threads_on_every_chip(neutral: TritonTuning, lanes: int) -> None:
    tuning = with_lanes(neutral, lanes)
    assert tuning.sample_config().num_warps * lanes == 128
    assert tuning.logprobs_config().num_warps * lanes == 256
    assert [tuning.norm_config(size).num_warps * lanes for size in (1024, 4096, 16384)] == [
        128,
        512,
        512,
    ]
    assert tuning.norm_config(64).num_warps == 1


@pytest.mark.parametrize("lanes", [16, 32, 64])
@pytest.mark.parametrize("dim", [64, 96, 128, 256])
def test_a_tile_of_heads_fills_its_warps(neutral: TritonTuning, lanes: int, dim: int) -> None:
    tuning = with_lanes(neutral, lanes)
    few, many = (tuning.head_config(dim, tokens) for tokens in (1, 8192))
    assert few.num_warps < many.num_warps
    assert few.heads == 1 or few.heads * dim <= 16 * lanes * few.num_warps


def test_a_head_config_is_made_once_for_a_power_of_two(neutral: TritonTuning) -> None:
    head_config = remembered_head_config(neutral)
    assert head_config(128, 1025) is head_config(128, 2000)
    assert head_config(128, 1023) == neutral.head_config(128, 512)
    assert head_config(128, 0) == neutral.head_config(128, 0)


@pytest.mark.parametrize("lanes", [16, 32, 64])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_one_row_is_multiplied_without_matrix_instructions(
    neutral: TritonTuning, lanes: int, outputs: int, inputs: int
) -> None:
    tuning = with_lanes(neutral, lanes)
    for rows in (1, 2):
        config = tuning.linear_config(rows, outputs, inputs)
        assert config is not None
        assert config.block_m == rows
        held = config.block_n * config.block_k / (config.num_warps * lanes)
        assert config.block_n == 1 or held <= 128
        for size in (config.block_n, config.block_k, config.num_warps):
            assert size & (size - 1) == 0
    assert tuning.linear_config(3, outputs, inputs) is None
    assert tuning.linear_config(0, outputs, inputs) is None


def test_a_measurement_is_taken_before_the_rule(neutral: TritonTuning) -> None:
    tuning = copy.copy(neutral)
    tuning.measured_linear = {(4096, 1024, 1): None, (4096, 1024, 8): Tiles(16, 32, 128, 4)}
    tuning.measured_fused = {(4096, 1024, 1, True): None}
    assert tuning.linear_config(1, 4096, 1024) is None
    measured = tuning.linear_config(5, 4096, 1024)
    assert measured is not None
    assert (measured.block_n, measured.split_k) == (32, 4)
    assert tuning.fused_config(1, 4096, 1024, gated=True) is None
    assert tuning.fused_config(1, 4096, 1024, gated=False) is not None
    assert tuning.fused_config(2, 4096, 14336, gated=False) is None  # the norm would cost too much


def test_rows_beyond_the_table_take_its_last_tile(neutral: TritonTuning) -> None:
    rows = [neutral.quantized_config("int8", count, 4096, 4096).rows for count in (1, 17, 64, 999)]
    assert rows == [16, 32, 64, 128]


def test_a_product_of_few_tiles_is_split_among_the_units() -> None:
    tile = QuantizedTile(16, 64, 4, 2, 4)
    assert config_of(tile, 100, 1, 4096, 4096, {}).splits == 6  # 64 tiles, 400 programs
    assert config_of(tile, 1, 1, 4096, 4096, {}).splits == 1
    assert config_of(tile, 100, 1, 64, 256, {}).splits == 1  # too little to divide


def test_options_of_a_table_and_of_the_chip_add_up() -> None:
    tile = QuantizedTile(16, 64, 4, 2, 4, (("waves_per_eu", 2),))
    config = config_of(tile, 1, 1, 64, 64, {"options": (("launch_pdl", True),)})
    assert config.launch_options() == {
        "num_warps": 4,
        "num_stages": 2,
        "waves_per_eu": 2,
        "launch_pdl": True,
    }


def test_rules_name_who_takes_a_chunk(neutral: TritonTuning) -> None:
    tuning = copy.copy(neutral)
    tuning.prefill_rules = (
        PrefillRule(provider="whole", whole_prompt=True, min_query_len=512, max_head_dim=128),
        PrefillRule(provider="any", whole_prompt=True, min_query_len=1024),
        PrefillRule(provider="rest", whole_prompt=False, min_query_len=512),
    )
    assert tuning.prefill_providers(128, 512, 512) == ["whole"]
    assert tuning.prefill_providers(128, 1024, 1024) == ["whole", "any"]
    assert tuning.prefill_providers(256, 1024, 1024) == ["any"]
    assert tuning.prefill_providers(64, 512, 4096) == ["rest"]
    assert tuning.prefill_providers(64, 511, 511) == []


def test_what_a_chip_does_not_convert_is_refused(neutral: TritonTuning) -> None:
    tuning = copy.copy(neutral)
    assert tuning.supports_kv(torch.float8_e4m3fn)
    assert tuning.supports_quantization("fp8")
    tuning.has_fp8 = False
    assert "neutral cannot" in tuning.supports_kv(torch.float8_e4m3fn).reason
    assert "neutral cannot" in tuning.supports_quantization("fp8").reason
    assert tuning.supports_quantization("int4")
    assert "int8" in tuning.supports_kv(torch.int8).reason


def test_up_to_takes_the_smallest_entry_that_is_enough() -> None:
    table = {256: "c", 64: "a", 128: "b"}
    assert [up_to(table, size) for size in (16, 64, 65, 200)] == ["a", "a", "b", "c"]
