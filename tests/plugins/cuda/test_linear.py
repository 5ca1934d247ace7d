"""The plugin's tiles of dense linear layers."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from windlass_cuda.tuning import CudaTuning

SHAPES = [(4096, 1024), (1024, 3072), (28672, 4096), (4096, 14336), (128256, 4096), (40, 24)]


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_every_choice_fits_its_rows(arch: str, outputs: int, inputs: int) -> None:
    tuning = CudaTuning(arch, 132)
    for rows in range(1, tuning.most_rows + 1):
        config = tuning.linear_config(rows, outputs, inputs)
        if config is None:
            continue
        assert rows <= config.block_m
        for size in (config.block_m, config.block_n, config.block_k):
            assert size & (size - 1) == 0
        assert config.block_m >= 16 or config.split_k == 1
        # Matrix instructions keep their tiles in shared memory, of which sm_80 has least.
        tile = (config.block_n + config.block_m) * config.block_k * 2
        if config.block_m >= 16:
            assert tile * config.num_stages <= 160 << 10
        fused = tuning.fused_config(rows, outputs, inputs, gated=True)
        assert fused is None or rows <= fused.block_m
    assert tuning.linear_config(tuning.most_rows + 1, outputs, inputs) is None
    assert tuning.linear_config(0, outputs, inputs) is None


def test_a_step_of_one_token_uses_our_kernels() -> None:
    for outputs, inputs in SHAPES[:5]:
        assert CudaTuning("sm_90", 132).linear_config(1, outputs, inputs) is not None
