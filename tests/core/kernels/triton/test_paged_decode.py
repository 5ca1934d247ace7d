"""Decodes against the float32 oracle: rows cut anywhere, every cache layout, every feature."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windlass.backend import AttentionParams, BackendConfig, KVLayout, TorchBackend
from windlass.kernels.kv_quantization import FP8_LARGEST
from windlass.kernels.triton.decode_plan import (
    DecodeConfig,
    DecodePlan,
    DecodeScratch,
    plan_decode,
)
from windlass.kernels.triton.paged_decode import paged_decode
from windlass.plugin import BackendSpec
from windlass.testing.paged_step import LAYER, PagedStep, build_step

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
LSE_TOLERANCE = 2e-5
SINKS = torch.linspace(-2, 2, 6)
PLAIN = AttentionParams(scale=0.25)


def decode_step(device: torch.device, seq_lens: list[int], **kwargs: object) -> PagedStep:
    """One query token for each of `seq_lens`; `block_size` and what `build_step` takes."""
    spec = BackendSpec(name="test", target="none:None", device_type=device.type, priority=0)
    layout = KVLayout(order="LBHNC", block_size=int(kwargs.pop("block_size", 64)))  # type: ignore[call-overload]
    return build_step(
        TorchBackend(spec, BackendConfig()),
        query_lens=[1] * len(seq_lens),
        seq_lens=seq_lens,
        layout=layout,
        **kwargs,  # type: ignore[arg-type]
    )


def plan(step: PagedStep, window: int, units: int, config: DecodeConfig) -> DecodePlan:
    batch, heads = step.batch, step.pool.spec.num_kv_heads
    longest = batch.max_seq_len
    return plan_decode(batch.seq_lens, batch.block_table, heads, units, longest, window, config)


def poisoned_scratch(step: PagedStep, programs: int) -> DecodeScratch:
    spec = step.pool.spec
    group = step.query.shape[1] // spec.num_kv_heads
    scratch = DecodeScratch.allocate(programs, group, spec.head_dim, step.query.device)
    scratch.partial.fill_(torch.nan)
    scratch.partial_lse.fill_(torch.nan)
    return scratch


def check(
    step: PagedStep,
    params: AttentionParams = PLAIN,
    units: int = 3,
    config: DecodeConfig = DecodeConfig(minimum_run=1),
    wants_lse: tuple[bool, ...] = (True,),
) -> None:
    """Layers one after the other, with lse or without, equal the oracle."""
    planned = plan(step, params.window, units, config)
    scratch = poisoned_scratch(step, planned.num_programs)
    expected, expected_lse = step.expected(params)
    tolerance = TOLERANCE[step.query.dtype]
    for wants in wants_lse:
        lse = torch.full_like(expected_lse, torch.nan) if wants else None
        out = torch.full_like(step.query, torch.nan)
        paged_decode(
            step.query,
            step.pool.keys[LAYER],
            step.pool.values[LAYER],
            out,
            lse,
            planned,
            scratch,
            scale=params.scale,
            softcap=params.softcap,
            sinks=params.sinks,
        )
        torch.testing.assert_close(out, expected, atol=tolerance, rtol=tolerance)
        if lse is not None:
            torch.testing.assert_close(lse, expected_lse, atol=LSE_TOLERANCE, rtol=LSE_TOLERANCE)
        assert not planned.arrivals.any()


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seq_lens=st.lists(st.integers(1, 260), min_size=1, max_size=3),
    heads=st.sampled_from([(1, 1), (3, 2), (4, 1), (5, 1), (7, 1)]),
    window=st.sampled_from([0, 0, 1, 63, 100]),
    units=st.integers(1, 5),
    minimum_run=st.integers(1, 3),
    block_size=st.sampled_from([16, 32, 64, 128]),
)
def test_rows_cut_anywhere(
    device: torch.device,
    dtypes: tuple[torch.dtype, ...],
    seq_lens: list[int],
    heads: tuple[int, int],
    window: int,
    units: int,
    minimum_run: int,
    block_size: int,
) -> None:
    group, num_kv_heads = heads
    step = decode_step(
        device,
        seq_lens,
        num_heads=group * num_kv_heads,
        num_kv_heads=num_kv_heads,
        block_size=block_size,
        dtype=dtypes[-1],
    )
    params = AttentionParams(scale=0.25, window=window)
    check(step, params, units, DecodeConfig(minimum_run=minimum_run, combine_numbers=64))


@pytest.mark.parametrize("head_dim", [64, 80, 96, 112, 128, 192, 256])
def test_head_sizes(device: torch.device, dtypes: tuple[torch.dtype, ...], head_dim: int) -> None:
    step = decode_step(
        device, [150], head_dim=head_dim, num_heads=2, num_kv_heads=1, dtype=dtypes[-1]
    )
    check(step, AttentionParams(scale=head_dim**-0.5))


@pytest.mark.parametrize(("head_dim", "chunk"), [(64, 16), (80, 32), (128, 64), (256, 256)])
def test_queries_and_keys_in_chunks(device: torch.device, head_dim: int, chunk: int) -> None:
    step = decode_step(device, [70, 129], head_dim=head_dim)
    check(step, AttentionParams(scale=0.125), 2, DecodeConfig(minimum_run=1, chunk=chunk))


@pytest.mark.parametrize("group", [16, 33, 64])
def test_many_heads_share_keys(
    device: torch.device, dtypes: tuple[torch.dtype, ...], group: int
) -> None:
    check(decode_step(device, [150, 1], num_heads=group, num_kv_heads=1, dtype=dtypes[-1]))


def test_layers_one_after_the_other(device: torch.device) -> None:
    check(decode_step(device, [200, 10]), wants_lse=(True, False, False))


@pytest.mark.parametrize(
    ("softcap", "sinks", "window"), [(1.5, False, 0), (0.0, True, 0), (2.0, True, 70)]
)
def test_features(device: torch.device, softcap: float, sinks: bool, window: int) -> None:
    params = AttentionParams(
        scale=0.25, softcap=softcap, sinks=SINKS.to(device) if sinks else None, window=window
    )
    check(decode_step(device, [200, 64, 1], num_heads=6), params)


def test_dtypes(device: torch.device, dtypes: tuple[torch.dtype, ...]) -> None:
    for dtype in dtypes:
        check(decode_step(device, [130, 20], dtype=dtype, head_dim=32))


@pytest.mark.parametrize("kv_dtype", FP8_LARGEST)
def test_fp8_cache(
    device: torch.device, dtypes: tuple[torch.dtype, ...], kv_dtype: torch.dtype
) -> None:
    for dtype in dtypes:
        check(decode_step(device, [130, 20], dtype=dtype, kv_dtype=kv_dtype))


def test_work_is_equal(device: torch.device) -> None:
    """One long sequence and many short ones: no program has more than its share of tiles."""
    config = DecodeConfig(tile=16, programs_per_unit=1, minimum_run=1)
    step = decode_step(device, [700, *[20] * 8], num_kv_heads=2, block_size=16)
    planned = plan(step, 0, 6, config)
    tiles = [44, *[2] * 8]
    ends = torch.tensor([0, *tiles]).cumsum(0)
    assert planned.num_programs == 6
    assert planned.rows_end.tolist() == ends.tolist()
    starts = [program * 20 % 60 for program in range(6)]
    expected = [int((ends[1:] <= start).sum()) for start in starts]
    assert planned.first_row.tolist() == expected


def test_padding_harms_nobody(device: torch.device) -> None:
    """Rows of length 1 in the null block, all NaN, between others; more memory than rows."""
    step = decode_step(device, [90, 1, 1, 40], num_kv_heads=2)
    step.batch.block_table[1:3] = 0
    planned = plan(step, 0, 2, DecodeConfig(minimum_run=1))
    assert step.pool.keys[LAYER][0].isnan().all()
    out = torch.full((6, *step.query.shape[1:]), -7.0, device=device)
    query = torch.cat((step.query, step.query[:2]))
    scratch = poisoned_scratch(step, planned.num_programs)
    keys, values = step.pool.keys[LAYER], step.pool.values[LAYER]
    paged_decode(query, keys, values, out, None, planned, scratch, scale=0.25)
    expected, _ = step.expected(PLAIN)
    torch.testing.assert_close(out[[0, 3]], expected[[0, 3]], atol=5e-6, rtol=5e-6)
    assert (out[4:] == -7).all()
