"""The plugin's tiles of experts."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from windlass.backend.triton.expert_tiles import choose
from windlass.kernels.triton.grouped_linear import ExpertsConfig
from windlass_cuda.tuning import CudaTuning

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
KIBIBYTE = 1 << 10


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(("experts", "top_k"), [(128, 8), (8, 2), (1, 1)])
def test_every_number_of_tokens_has_tiles(arch: str, experts: int, top_k: int) -> None:
    for itemsize in (2, 4):
        choices = CudaTuning(arch, 132).expert_choices(itemsize)
        for tokens in (1, 2, 15, 16, 17, 64, 100, 255, 1000, 100_000):
            config = choose(choices, tokens, top_k, experts)
            assert config.plan is not None or tokens <= config.block_m
            assert config in [choice.config for choice in choices]


def test_more_tokens_get_taller_tiles() -> None:
    choices = CudaTuning("sm_90", 132).expert_choices(2)
    rows = [choose(choices, tokens, 8, 128).block_m for tokens in (1, 64, 256, 512, 4096)]
    assert rows == [16, 16, 32, 64, 128]


def stage_bytes(config: ExpertsConfig, itemsize: int) -> int:
    """Shared memory of the larger product."""
    gate_up, down = config.gate_up, config.down
    first = (config.block_m + 2 * gate_up.block_n) * gate_up.block_k * gate_up.num_stages
    second = (config.block_m + down.block_n) * down.block_k * down.num_stages
    return itemsize * max(first, second)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_loads_in_flight_fit_into_shared_memory(arch: str) -> None:
    limit = 227 if arch in ("sm_90", "sm_100") else 99
    for itemsize in (2, 4):
        for choice in CudaTuning(arch, 132).expert_choices(itemsize):
            assert stage_bytes(choice.config, itemsize) < limit * KIBIBYTE
