"""Rotation, head norms and the cache write against the reference ops, in every view and layout."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windlass.backend import HeadNorm, KVLayout, KVPool, KVSpec
from windlass.kernels import reference
from windlass.kernels.kv_quantization import FP8, FP8_LARGEST, indexable, quantize_kv
from windlass.kernels.triton.rope import rope, rope_and_write
from windlass.kernels.triton.write_kv import HeadConfig, write_kv
from windlass.testing.paged_step import nan_byte

# One rounding to the model's dtype may fall on the other side.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}
CONFIG = HeadConfig(heads=4)

generated = settings(
    max_examples=6 if os.environ["TRITON_INTERPRET"] == "1" else 12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
head_dims = st.sampled_from([(64, 64), (128, 128), (80, 80), (96, 48), (40, 10), (256, 64)])


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = TOLERANCE[expected.dtype]
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)
    if expected.dtype is not torch.float32 and expected.numel() > 200:
        assert (actual == expected).float().mean() > 0.97  # almost all are rounded to the same


def fused_qkv(
    tokens: int, heads: int, kv_heads: int, dim: int, dtype: torch.dtype, device: torch.device
) -> list[torch.Tensor]:
    """Query, key and value as views of one tensor, with rows further apart than they are long."""
    generator = torch.Generator().manual_seed(tokens)
    total = heads + 2 * kv_heads
    wide = torch.randn(tokens, total * dim + 16, generator=generator).to(device, dtype)
    qkv = wide[:, : total * dim].view(tokens, total, dim)
    return list(qkv.split_with_sizes([heads, kv_heads, kv_heads], dim=1))


def pool_of(
    kv_heads: int, dim: int, dtype: torch.dtype, order: str, device: torch.device
) -> KVPool:
    """5 blocks of 16 slots, all of them NaN."""
    spec = KVSpec(num_kv_heads=kv_heads, head_dim=dim, dtype=dtype)
    layout = KVLayout(order=order, block_size=16)
    nbytes = 5 * layout.block_bytes(spec, 2)
    buffer = torch.full((nbytes,), nan_byte(dtype), dtype=torch.uint8, device=device)
    return KVPool.carve(buffer, spec, layout, 2, 5)


def some_slots(tokens: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Different slots in random order, every fourth of them padding."""
    slots = torch.randperm(80, generator=torch.Generator().manual_seed(1))[:tokens]
    slots[::4] = -1
    return slots.to(device, dtype)


def roundable(rows: torch.Tensor, cache_dtype: torch.dtype) -> None:
    """Make of `rows`, for the interpreter, numbers that a cache of fp8 holds exactly."""
    if cache_dtype is FP8 and rows.device.type == "cpu":
        rows.copy_(rows.to(FP8))


def rotation_table(rotated: int, device: torch.device) -> torch.Tensor:
    angles = torch.rand(50, rotated // 2, generator=torch.Generator().manual_seed(2)) * 6.0
    return torch.cat((angles.cos(), angles.sin()), dim=-1).to(device)


def assert_written(
    cache: torch.Tensor, slots: torch.Tensor, rows: torch.Tensor, exact: bool
) -> None:
    """The cache holds `rows` at their slots, and everywhere else the NaN of the beginning."""
    size = cache.shape[1]
    numbers = cache.to(torch.float32)
    untouched = torch.ones(cache.shape[:2], dtype=torch.bool, device=cache.device)
    for slot, row in zip(slots.tolist(), rows, strict=True):
        if slot < 0:
            continue
        untouched[slot // size, slot % size] = False
        stored, _ = quantize_kv(row, cache.dtype)
        actual = cache[slot // size, slot % size]
        if exact:
            assert torch.equal(indexable(actual), indexable(stored))
        elif cache.dtype is not FP8:
            close(actual, stored)
        elif cache.device.type != "cpu":  # the interpreter does not round to fp8
            torch.testing.assert_close(actual.float(), stored.float(), atol=2**-9, rtol=0.13)
    assert numbers[untouched].isnan().all()


@generated
@given(
    tokens=st.integers(1, 6),
    heads=st.sampled_from([(1, 1), (4, 2), (14, 2), (6, 6)]),
    dims=head_dims,
    order=st.sampled_from(["LBNHC", "LBHNC", "BLHNC"]),
    quantized=st.booleans(),
    norm=st.booleans(),
    slot_dtype=st.sampled_from([torch.int64, torch.int32]),
)
def test_rope_and_write(
    device: torch.device,
    dtypes: tuple[torch.dtype, ...],
    tokens: int,
    heads: tuple[int, int],
    dims: tuple[int, int],
    order: str,
    quantized: bool,
    norm: bool,
    slot_dtype: torch.dtype,
) -> None:
    (num_heads, kv_heads), (dim, rotated) = heads, dims
    for dtype in dtypes:
        query, key, value = fused_qkv(tokens, num_heads, kv_heads, dim, dtype, device)
        pool = pool_of(kv_heads, dim, FP8 if quantized else dtype, order, device)
        roundable(value, pool.spec.dtype)
        slots = some_slots(tokens, slot_dtype, device)
        positions = torch.arange(tokens, device=device) * 7
        table = rotation_table(rotated, device)
        weights = torch.rand(2, dim, generator=torch.Generator().manual_seed(3)).to(device, dtype)
        head_norm = HeadNorm(weights[0], weights[1], 1e-6) if norm else None
        plain_query, plain_key = query, key
        if norm:
            plain_query = reference.rms_norm(query, weights[0], 1e-6)
            plain_key = reference.rms_norm(key, weights[1], 1e-6)
        expected, rotated_key = reference.rope(plain_query, plain_key, positions, table)
        kept_key, kept_value = key.clone(), value.clone()
        result = rope_and_write(
            query, key, value, positions, table, pool.keys[1], pool.values[1], slots, head_norm,
            CONFIG,
        )  # fmt: skip
        assert result.data_ptr() == query.data_ptr()
        close(result, expected)
        assert torch.equal(key, kept_key)
        assert torch.equal(value, kept_value)
        assert_written(pool.keys[1], slots, rotated_key, exact=False)
        assert_written(pool.values[1], slots, value, exact=True)
        assert pool.keys[0].to(torch.float32).isnan().all()


@generated
@given(
    tokens=st.integers(1, 9),
    kv_heads=st.sampled_from([1, 3, 8]),
    dim=st.sampled_from([24, 64, 128]),
    order=st.sampled_from(["LBNHC", "LBHNC"]),
    quantized=st.booleans(),
)
def test_write_kv(
    device: torch.device,
    dtypes: tuple[torch.dtype, ...],
    tokens: int,
    kv_heads: int,
    dim: int,
    order: str,
    quantized: bool,
) -> None:
    for dtype in dtypes:
        _, key, value = fused_qkv(tokens, 2, kv_heads, dim, dtype, device)
        pool = pool_of(kv_heads, dim, FP8 if quantized else dtype, order, device)
        slots = some_slots(tokens, torch.int64, device)
        roundable(key, pool.spec.dtype)
        roundable(value, pool.spec.dtype)
        write_kv(key, value, pool.keys[0], pool.values[0], slots, CONFIG)
        assert_written(pool.keys[0], slots, key, exact=True)
        assert_written(pool.values[0], slots, value, exact=True)
        assert pool.keys[1].to(torch.float32).isnan().all()


@pytest.mark.parametrize(("dtype", "largest"), FP8_LARGEST.items())
@pytest.mark.parametrize("number", [448.0, 449.0, 465.0, 1e4, -1e4, float("inf"), float("-inf")])
def test_fp8_saturates(
    device: torch.device, dtype: torch.dtype, largest: float, number: float
) -> None:
    rows = torch.full((1, 1, 16), number, device=device)
    pool = pool_of(1, 16, dtype, "LBHNC", device)
    slots = torch.tensor([17], device=device)
    write_kv(rows, rows, pool.keys[0], pool.values[0], slots, CONFIG)
    assert pool.keys[0][1, 1].float().abs().eq(largest).all()
    assert_written(pool.keys[0], slots, rows, exact=True)


@pytest.mark.parametrize("dtype", [torch.float32, FP8])
def test_nan_stays_nan(device: torch.device, dtype: torch.dtype) -> None:
    if dtype is FP8 and device.type == "cpu":
        pytest.skip("the interpreter knows no NaN of fp8")
    rows = torch.full((1, 1, 16), torch.nan, device=device)
    pool = pool_of(1, 16, dtype, "LBHNC", device)
    pool.buffer.zero_()
    write_kv(rows, rows, pool.keys[0], pool.values[0], torch.tensor([3], device=device), CONFIG)
    assert pool.keys[0][0, 3].float().isnan().all()


@generated
@given(tokens=st.integers(0, 6), heads=st.sampled_from([(1, 1), (7, 3), (4, 2)]), dims=head_dims)
def test_rope(
    device: torch.device,
    dtypes: tuple[torch.dtype, ...],
    tokens: int,
    heads: tuple[int, int],
    dims: tuple[int, int],
) -> None:
    for dtype in dtypes:
        query, key, _ = fused_qkv(tokens, *heads, dims[0], dtype, device)
        positions = torch.arange(tokens, device=device) * 3
        table = rotation_table(dims[1], device)
        expected = reference.rope(query, key, positions, table)
        actual = rope(query, key, positions, table, CONFIG)
        for ours, theirs in zip(actual, expected, strict=True):
            assert ours.is_contiguous()
            close(ours, theirs)
