"""The elementwise kernels against the references, at every level that this processor has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windlass.backend import (
    Attention,
    BackendConfig,
    HeadNorm,
    KVLayout,
    KVPool,
    KVSpec,
    TorchAttention,
    TorchBackend,
)
from windlass.kernels import reference
from windlass.kernels.kv_quantization import indexable
from windlass.layers.rotary_embedding import cos_sin_table
from windlass.plugin import BackendSpec
from windlass_cpu.built import library_path
from windlass_cpu.library import ISA_NAMES, best_isa, force_isa

if library_path() is None:
    pytest.skip("the C++ kernels were not built", allow_module_level=True)

from windlass_cpu import ops
from windlass_cpu.attention import CpuAttention

LEVELS = ISA_NAMES[: min(ISA_NAMES.index(best_isa()), ISA_NAMES.index("avx512")) + 1]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Sums are added in another order: the number before a rounding may lie on the other side.
TOLERANCE = {torch.float32: 4e-6, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}

generated = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn."""
    force_isa(request.param)
    yield request.param
    force_isa(best_isa())


def guarded(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Normal numbers inside a larger tensor of NaN: what is read around them shows."""
    around = torch.full((shape[0] + 2, *shape[1:]), torch.nan, dtype=dtype)
    inside = around[1:-1]
    inside.copy_(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
    return inside


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = TOLERANCE[expected.dtype]
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)
    if expected.dtype is not torch.float32 and expected.numel() > 200:
        assert (actual == expected).float().mean() > 0.97  # almost all are rounded to the same


@generated
@given(rows=st.integers(1, 70), size=st.integers(1, 300), dtype=st.sampled_from(DTYPES))
def test_rms_norm(level: str, rows: int, size: int, dtype: torch.dtype) -> None:
    x, weight = guarded(rows, size, dtype=dtype), guarded(size, dtype=dtype, seed=1)
    close(ops.rms_norm(x, weight, 1e-6), reference.rms_norm(x, weight, 1e-6))


@generated
@given(rows=st.integers(1, 70), size=st.integers(1, 300), dtype=st.sampled_from(DTYPES))
def test_add_rms_norm(level: str, rows: int, size: int, dtype: torch.dtype) -> None:
    x, residual = guarded(rows, size, dtype=dtype), guarded(rows, size, dtype=dtype, seed=2)
    weight = guarded(size, dtype=dtype, seed=1)
    before = residual.clone()
    normed, total = ops.add_rms_norm(x, residual, weight, 1e-5)
    expected, expected_total = reference.add_rms_norm(x, residual, weight, 1e-5)
    close(normed, expected)
    assert torch.equal(total, expected_total)
    assert torch.equal(residual, before)


@generated
@given(rows=st.integers(1, 70), size=st.integers(1, 300), dtype=st.sampled_from(DTYPES))
def test_silu_mul(level: str, rows: int, size: int, dtype: torch.dtype) -> None:
    x = guarded(rows, 2 * size, dtype=dtype) * 4
    close(ops.silu_mul(x), reference.silu_mul(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_mul_of_extreme_numbers(level: str, dtype: torch.dtype) -> None:
    gate = torch.tensor([-1e4, -120.0, -88.0, 0.0, 88.0, 120.0, 1e4])
    x = torch.cat((gate, torch.ones(7)))[None].to(dtype)
    close(ops.silu_mul(x), reference.silu_mul(x))


def rope_inputs(
    tokens: int, heads: tuple[int, int], head_dim: int, rotated: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value as views of one tensor, positions and the table."""
    num_heads, num_kv_heads = heads
    qkv = guarded(tokens, num_heads + 2 * num_kv_heads, head_dim, dtype=dtype)
    query, key, value = qkv.split_with_sizes([num_heads, num_kv_heads, num_kv_heads], dim=1)
    table = cos_sin_table([0.7**i for i in range(rotated // 2)], 1.0, 90, torch.device("cpu"))
    positions = torch.randint(0, 90, (tokens,), generator=torch.Generator().manual_seed(3))
    return query, key, value, positions, table


head_shapes = st.sampled_from(
    [(8, 8), (16, 10), (32, 32), (64, 64), (80, 40), (100, 100), (128, 96)]
)


@generated
@given(
    tokens=st.integers(1, 40),
    heads=st.sampled_from([(1, 1), (4, 2), (7, 1)]),
    head=head_shapes,
    dtype=st.sampled_from(DTYPES),
)
def test_rope(
    level: str, tokens: int, heads: tuple[int, int], head: tuple[int, int], dtype: torch.dtype
) -> None:
    query, key, _, positions, table = rope_inputs(tokens, heads, *head, dtype)
    before = query.clone()
    rotated = ops.rope(query, key, positions, table)
    expected = reference.rope(query, key, positions, table)
    for one, other in zip(rotated, expected, strict=True):
        close(one, other)
    assert torch.equal(query, before)


def new_pool(attention_dtype: torch.dtype, num_kv_heads: int, head_dim: int, order: str) -> KVPool:
    spec = KVSpec(num_kv_heads=num_kv_heads, head_dim=head_dim, dtype=attention_dtype)
    layout = KVLayout(order=order, block_size=16)
    buffer = torch.zeros(5 * layout.block_bytes(spec, 2), dtype=torch.uint8)
    pool = KVPool.carve(buffer, spec, layout, 2, 5)
    if attention_dtype.itemsize > 1:
        buffer.view(attention_dtype).fill_(7.0)
    return pool


@generated
@given(
    tokens=st.integers(1, 40),
    heads=st.sampled_from([(1, 1), (4, 2), (7, 1)]),
    head=head_shapes,
    dtype=st.sampled_from(DTYPES),
    order=st.sampled_from(["LBHNC", "LBNHC"]),
    has_norm=st.booleans(),
)
def test_rope_and_write_is_norm_then_rope_then_write(
    level: str,
    tokens: int,
    heads: tuple[int, int],
    head: tuple[int, int],
    dtype: torch.dtype,
    order: str,
    has_norm: bool,
) -> None:
    backend = TorchBackend(
        BackendSpec(name="reference", target="", device_type="cpu", priority=1), BackendConfig()
    )
    weights = [guarded(head[0], dtype=dtype, seed=4 + i) for i in range(2)]
    norm = HeadNorm(weights[0], weights[1], 1e-6) if has_norm else None
    slots = torch.randperm(80, generator=torch.Generator().manual_seed(5))[:tokens]
    slots[::3] = -1
    results = []
    implementations: tuple[Attention, ...] = (CpuAttention(), TorchAttention())
    for attention in implementations:
        inputs = rope_inputs(tokens, heads, *head, dtype)
        pool = new_pool(dtype, heads[1], head[0], order)
        query = attention.rope_and_write(pool, 1, *inputs, slots, norm, backend.ops)
        # Padding may be written to the null block's first slot.
        views = (pool.keys[1], pool.values[1])
        results.append((query, *(view.flatten(0, 1)[1:] for view in views)))
        assert torch.equal(pool.keys[0], torch.full_like(pool.keys[0], 7.0))
    for one, other in zip(*results, strict=True):
        close(one, other)


@generated
@given(
    tokens=st.integers(1, 40),
    heads=st.sampled_from([(1, 1), (4, 2), (7, 1)]),
    head=head_shapes,
    dtype=st.sampled_from(DTYPES),
    kv_dtype=st.sampled_from([torch.int8, torch.float8_e4m3fn]),
    order=st.sampled_from(["LBHNC", "LBNHC"]),
)
def test_rope_and_write_rounds_to_bytes_what_it_would_write(
    level: str,
    tokens: int,
    heads: tuple[int, int],
    head: tuple[int, int],
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
    order: str,
) -> None:
    backend = TorchBackend(
        BackendSpec(name="reference", target="", device_type="cpu", priority=1), BackendConfig()
    )
    attention, slots = CpuAttention(), torch.randperm(79)[:tokens] + 1
    pools = [
        new_pool(dtype, heads[1], head[0], order),
        new_pool(kv_dtype, heads[1], head[0], order),
    ]
    for pool in pools:
        inputs = rope_inputs(tokens, heads, *head, dtype)
        attention.rope_and_write(pool, 1, *inputs, slots, None, backend.ops)
    plain, quantized = pools
    TorchAttention().write_kv(
        quantized,
        0,
        plain.keys[1].flatten(0, 1)[slots],
        plain.values[1].flatten(0, 1)[slots],
        slots,
    )
    for part in (quantized.keys, quantized.values, quantized.key_scales, quantized.value_scales):
        if part:
            expected, written = (indexable(view).flatten(0, 1)[slots] for view in part)
            assert torch.equal(written, expected)


def test_what_the_kernels_do_not_take_goes_to_the_reference() -> None:
    x, weight = torch.randn(3, 8, dtype=torch.float64), torch.ones(8, dtype=torch.float64)
    assert torch.equal(ops.rms_norm(x, weight, 1e-6), reference.rms_norm(x, weight, 1e-6))
    assert torch.equal(ops.silu_mul(x), reference.silu_mul(x))
    strided = torch.randn(8, 6)[:, ::2]
    close(
        ops.rms_norm(strided, torch.ones(3), 1e-6), reference.rms_norm(strided, torch.ones(3), 1e-6)
    )
