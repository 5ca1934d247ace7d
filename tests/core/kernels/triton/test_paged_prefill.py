"""Chunks against the float32 oracle, and keys and values gathered from the cache."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windlass.backend import AttentionParams, BackendConfig, KVLayout, TorchBackend
from windlass.kernels.kv_quantization import FP8_LARGEST
from windlass.kernels.triton.gather_kv import gather_kv
from windlass.kernels.triton.launch import LaunchConfig
from windlass.kernels.triton.paged_prefill import PrefillConfig, list_query_tiles, paged_prefill
from windlass.plugin import BackendSpec
from windlass.testing.paged_step import LAYER, PagedStep, build_step

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
LSE_TOLERANCE = 2e-5
SMALL = PrefillConfig(query_rows=32, tile=32)
PLAIN = AttentionParams(scale=0.25)


def chunk_step(
    device: torch.device, chunks: list[tuple[int, int]], block_size: int = 64, **kwargs: object
) -> PagedStep:
    """Chunks (query tokens, tokens cached before them), decodes first."""
    spec = BackendSpec(name="test", target="none:None", device_type=device.type, priority=0)
    return build_step(
        TorchBackend(spec, BackendConfig()),
        query_lens=[new for new, _ in chunks],
        seq_lens=[new + history for new, history in chunks],
        layout=KVLayout(order="LBHNC", block_size=block_size),
        **kwargs,  # type: ignore[arg-type]
    )


def check(step: PagedStep, params: AttentionParams = PLAIN, config: PrefillConfig = SMALL) -> None:
    """All rows but decodes equal the oracle; the decodes are not written."""
    batch, spec = step.batch, step.pool.spec
    rows = range(batch.num_decodes, batch.num_requests)
    starts = batch.cu_seqlens_q_cpu
    tiles = list_query_tiles(
        rows,
        [starts[row + 1] - starts[row] for row in rows],
        batch.seq_lens_cpu[batch.num_decodes :],
        step.query.shape[1] // spec.num_kv_heads,
        config,
    )
    expected, expected_lse = step.expected(params)
    out, lse = torch.full_like(expected, -7.0), torch.full_like(expected_lse, -7.0)
    paged_prefill(
        step.query,
        step.pool.keys[LAYER],
        step.pool.values[LAYER],
        out,
        lse,
        torch.tensor(tiles, dtype=torch.int32, device=out.device),
        batch.cu_seqlens_q,
        batch.seq_lens,
        batch.block_table,
        config,
        scale=params.scale,
        window=params.window,
        softcap=params.softcap,
        sinks=params.sinks,
    )
    tolerance, first = TOLERANCE[out.dtype], batch.num_decodes
    torch.testing.assert_close(out[first:], expected[first:], atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(
        lse[first:], expected_lse[first:], atol=LSE_TOLERANCE, rtol=LSE_TOLERANCE
    )
    assert (out[:first] == -7).all()
    assert (lse[:first] == -7).all()


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    chunks=st.lists(st.tuples(st.integers(2, 70), st.integers(0, 100)), min_size=1, max_size=3),
    num_decodes=st.integers(0, 2),
    group=st.sampled_from([1, 3, 4, 7]),
    window=st.sampled_from([0, 0, 1, 33, 64]),
    block_size=st.sampled_from([16, 32, 64, 128]),
)
def test_chunks_of_any_length(
    device: torch.device,
    dtypes: tuple[torch.dtype, ...],
    chunks: list[tuple[int, int]],
    num_decodes: int,
    group: int,
    window: int,
    block_size: int,
) -> None:
    chunks = [(1, 20)] * num_decodes + chunks
    step = chunk_step(device, chunks, block_size, num_heads=group, num_kv_heads=1, dtype=dtypes[-1])
    check(step, AttentionParams(scale=0.25, window=window))


@pytest.mark.parametrize("head_dim", [64, 80, 96, 112, 128, 192, 256])
def test_head_sizes(device: torch.device, dtypes: tuple[torch.dtype, ...], head_dim: int) -> None:
    step = chunk_step(
        device, [(30, 50)], head_dim=head_dim, num_heads=2, num_kv_heads=1, dtype=dtypes[-1]
    )
    check(step, AttentionParams(scale=head_dim**-0.5))


@pytest.mark.parametrize(("head_dim", "chunk"), [(64, 16), (80, 32), (128, 64), (256, 256)])
def test_queries_and_keys_in_chunks(device: torch.device, head_dim: int, chunk: int) -> None:
    config = PrefillConfig(query_rows=32, tile=32, chunk=chunk)
    check(chunk_step(device, [(1, 69), (40, 7)], head_dim=head_dim), config=config)


@pytest.mark.parametrize(
    ("softcap", "sinks", "window"), [(1.5, False, 0), (0.0, True, 0), (2.0, True, 50)]
)
def test_features(device: torch.device, softcap: float, sinks: bool, window: int) -> None:
    params = AttentionParams(
        scale=0.25,
        softcap=softcap,
        sinks=torch.linspace(-2, 2, 6, device=device) if sinks else None,
        window=window,
    )
    check(chunk_step(device, [(5, 60), (70, 0)], num_heads=6), params)


def test_dtypes_and_large_tiles(device: torch.device, dtypes: tuple[torch.dtype, ...]) -> None:
    config = PrefillConfig(query_rows=128, tile=64, num_warps=8)
    small = PrefillConfig(query_rows=32, tile=16)
    for dtype in dtypes:
        step = chunk_step(device, [(100, 30)], dtype=dtype, head_dim=64)
        check(step, config=small if dtype == torch.float32 else config)


@pytest.mark.parametrize("kv_dtype", FP8_LARGEST)
def test_fp8_cache(
    device: torch.device, dtypes: tuple[torch.dtype, ...], kv_dtype: torch.dtype
) -> None:
    for dtype in dtypes:
        check(chunk_step(device, [(40, 30)], dtype=dtype, kv_dtype=kv_dtype))


def test_most_work_first() -> None:
    tiles = list_query_tiles([3, 5], [20, 30], [20, 130], 4, SMALL)
    assert tiles == [(5, 24), (5, 16), (5, 8), (5, 0), (3, 16), (3, 8), (3, 0)]


@pytest.mark.parametrize("block_size", [16, 64, 128])
@pytest.mark.parametrize("kv_dtype", [torch.float16, torch.float8_e4m3fn])
def test_gather(device: torch.device, block_size: int, kv_dtype: torch.dtype) -> None:
    """Sequences one after the other, the room behind each filled with zeros."""
    step = chunk_step(
        device, [(2, 68), (3, 0)], block_size, head_dim=24, dtype=torch.float16, kv_dtype=kv_dtype
    )
    keys, values = gather_kv(
        step.pool.keys[LAYER],
        step.pool.values[LAYER],
        torch.tensor([0, 200, 203], dtype=torch.int32, device=device),
        step.batch.seq_lens,
        step.batch.block_table,
        203,
        200,
        torch.float16,
        LaunchConfig(),
    )
    for gathered, sources in ((keys, step.keys), (values, step.values)):
        stored = [source.to(kv_dtype).to(torch.float16) for source in sources]
        assert torch.equal(gathered[:70], stored[0])
        assert not gathered[70:200].any()
        assert torch.equal(gathered[200:], stored[1])
