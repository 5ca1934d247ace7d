"""What the kernels write into a quantised cache: bit by bit what the reference writes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windlass.backend import KVLayout, KVPool, KVSpec, TorchAttention
from windlass.kernels.kv_quantization import FP8, indexable
from windlass_cpu.built import library_path
from windlass_cpu.library import ISA_NAMES, best_isa, force_isa

if library_path() is None:
    pytest.skip("the C++ kernels were not built", allow_module_level=True)

from windlass_cpu.attention import CpuAttention

LEVELS = ISA_NAMES[: min(ISA_NAMES.index(best_isa()), ISA_NAMES.index("avx512")) + 1]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST = {torch.float32: 3e38, torch.bfloat16: 3e38, torch.float16: 6e4}


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn."""
    force_isa(request.param)
    yield request.param
    force_isa(best_isa())


def written(
    rows: torch.Tensor, kv_dtype: torch.dtype, order: str = "LBHNC"
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The parts of two pools after the kernels, and the reference, wrote `rows` `[T, H, D]`."""
    tokens, num_heads, head_dim = rows.shape
    spec = KVSpec(num_kv_heads=num_heads, head_dim=head_dim, dtype=kv_dtype)
    layout = KVLayout(order=order, block_size=16)
    num_blocks = tokens // 16 + 2
    slots = torch.randperm((num_blocks - 1) * 16, generator=torch.Generator().manual_seed(1)) + 16
    slots = slots[:tokens]
    slots[::5] = -1
    parts = []
    for attention in (CpuAttention(), TorchAttention()):
        buffer = torch.zeros(num_blocks * layout.block_bytes(spec, 1), dtype=torch.uint8)
        pool = KVPool.carve(buffer, spec, layout, 1, num_blocks)
        attention.write_kv(pool, 0, rows, rows.flip(0), slots)
        parts.append([part[1:] for part in pool.parts])  # padding may go to the null block
    return parts[0], parts[1]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    tokens=st.integers(1, 40),
    heads=st.integers(1, 3),
    head_dim=st.sampled_from([1, 8, 24, 40, 64, 100, 128]),
    exponent=st.integers(-30, 30),
    dtype=st.sampled_from(DTYPES),
    kv_dtype=st.sampled_from([torch.int8, FP8]),
    order=st.sampled_from(["LBHNC", "LBNHC", "BLHNC"]),
    seed=st.integers(0, 1000),
)
def test_the_kernels_write_what_the_reference_writes(
    level: str,
    tokens: int,
    heads: int,
    head_dim: int,
    exponent: int,
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
    order: str,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(tokens, heads, head_dim, generator=generator) * 2.0**exponent
    rows = rows.clamp(-LARGEST[dtype], LARGEST[dtype]).to(dtype)
    for one, other in zip(*written(rows, kv_dtype, order), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kv_dtype", [torch.int8, FP8])
def test_numbers_at_the_edges(level: str, kv_dtype: torch.dtype) -> None:
    edges = [0.0, -0.0, 1e-45, 1e-38, 2.0**-10, 2.0**-9, 447.9, 448.0, 449.0, 464.0, 480.0, 3e38]
    rows = torch.tensor([[x, -x, 1.0, 0.4] for x in edges])[:, None]
    for one, other in zip(*written(rows, kv_dtype), strict=True):
        assert torch.equal(one, other)


def test_every_fp8_number_and_every_tie_between_two(level: str) -> None:
    numbers = torch.arange(127, dtype=torch.uint8).view(FP8).float()
    ties = (numbers[1:] + numbers[:-1]) / 2
    rows = torch.cat((numbers, -numbers, ties, -ties, ties.nextafter(torch.tensor(1e9))))
    ours, reference = written(rows[:, None, None], FP8)
    for one, other in zip(ours, reference, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_a_number_that_is_not_finite_is_not_lost(level: str, poison: float) -> None:
    rows = torch.ones(32, 1, 24)
    rows[7, 0, 17] = poison
    ours, _ = written(rows, torch.int8)
    assert sum(int((~scales.isfinite()).sum()) for scales in ours[2:]) == 2
    if poison is torch.nan:
        ours, reference = written(rows, FP8)
        assert all(torch.equal(one, other) for one, other in zip(ours, reference, strict=True))
        assert sum(int(part.view(FP8).float().isnan().sum()) for part in ours) == 2


def test_a_long_row_of_bytes_does_not_touch_its_neighbours(level: str) -> None:
    spec = KVSpec(num_kv_heads=2, head_dim=20, dtype=torch.int8)
    layout = KVLayout(order="LBHNC", block_size=16)
    buffer = torch.full((2 * layout.block_bytes(spec, 1),), 77, dtype=torch.uint8)
    pool = KVPool.carve(buffer, spec, layout, 1, 2)
    before = [part.clone() for part in pool.parts]
    rows = torch.randn(1, 2, 20)
    CpuAttention().write_kv(pool, 0, rows, rows, torch.tensor([17]))
    for part, old in zip(pool.parts, before, strict=True):
        old[1, 1] = part[1, 1]
        assert torch.equal(indexable(part), old)
