"""The attention kernels against the float32 oracle, at every level that this processor has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windlass.backend import (
    AttentionParams,
    BackendConfig,
    GraphSupport,
    KVLayout,
    KVSpec,
    TorchBackend,
)
from windlass.plugin import BackendSpec
from windlass.testing.paged_step import LAYER, PagedStep, build_step
from windlass_cpu.built import library_path
from windlass_cpu.library import (
    ISA_NAMES,
    best_isa,
    force_isa,
    load_library,
    set_threads,
)

if library_path() is None:
    pytest.skip("the C++ kernels were not built", allow_module_level=True)

from windlass_cpu.attention import CpuAttention

LEVELS = [*ISA_NAMES[: ISA_NAMES.index(best_isa()) + 1], "pairs"]
"""Instruction sets, and the best one with products of bfloat16 pairs even where they are slow."""

# Outputs are averages of standard normal values. bfloat16 has 8 bits, float16 11: the output's
# own rounding, and in "pairs" that of the weights.
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
KV_DTYPES = {"same": None, "int8": torch.int8, "fp8": torch.float8_e4m3fn}
SINKS = torch.linspace(-2, 2, 6)
VARIANTS = {
    "plain": AttentionParams(scale=0.125),
    "window": AttentionParams(scale=0.125, window=37),
    "narrow window": AttentionParams(scale=0.125, window=1),
    "softcap": AttentionParams(scale=0.125, softcap=1.5),
    "sinks": AttentionParams(scale=0.125, sinks=SINKS),
    "all": AttentionParams(scale=0.125, window=70, softcap=2.0, sinks=SINKS),
}


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn."""
    pairs = request.param == "pairs"
    force_isa(best_isa() if pairs else request.param)
    load_library().windlass_attention_use_pairs(int(pairs))
    yield request.param
    force_isa(best_isa())
    load_library().windlass_attention_use_pairs(-1)


@pytest.fixture(scope="module")
def backend() -> TorchBackend:
    """Torch defaults with the attention under test."""
    spec = BackendSpec(name="reference", target="", device_type="cpu", priority=1)
    backend = TorchBackend(spec, BackendConfig())
    backend.attention = CpuAttention()
    return backend


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """One thread, and several, among which long keys are split."""
    set_threads(request.param)
    yield request.param
    set_threads(torch.get_num_threads())


def layout(block_size: int = 32, order: str = "LBHNC") -> KVLayout:
    return KVLayout(order=order, block_size=block_size)


def check(step: PagedStep, backend: TorchBackend, params: AttentionParams) -> None:
    """Output and lse are the oracle's."""
    lse = torch.full(step.query.shape[:2], torch.nan)
    out = step.run(backend.attention, params, lse)
    expected, expected_lse = step.expected(params)
    tolerance = TOLERANCE[step.query.dtype]
    torch.testing.assert_close(out, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(lse, expected_lse, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("params", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kv_dtype", KV_DTYPES.values(), ids=KV_DTYPES)
def test_mixed_steps_equal_the_oracle(
    level: str,
    backend: TorchBackend,
    dtype: torch.dtype,
    kv_dtype: torch.dtype | None,
    params: AttentionParams,
) -> None:
    step = build_step(
        backend,
        query_lens=[1, 1, 1, 1, 6, 100, 3],
        seq_lens=[1, 31, 300, 33, 6, 150, 257],
        layout=layout(),
        num_heads=6,
        num_kv_heads=2,
        head_dim=64,
        dtype=dtype,
        kv_dtype=kv_dtype,
    )
    check(step, backend, params)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    decodes=st.lists(st.integers(1, 600), max_size=4),
    prefills=st.lists(st.tuples(st.integers(2, 130), st.integers(0, 300)), max_size=3),
    heads=st.sampled_from([(1, 1), (4, 1), (6, 2), (8, 8), (5, 1), (7, 1), (16, 2)]),
    head_dim=st.sampled_from([32, 40, 64, 72, 80, 96, 100, 128, 192, 256]),
    block_size=st.sampled_from([16, 32, 48, 128]),
    order=st.sampled_from(["LBHNC", "LBNHC", "BLHNC"]),
    packed=st.booleans(),
    window=st.sampled_from([0, 1, 20, 200]),
    softcap=st.sampled_from([0.0, 3.0]),
    dtype=st.sampled_from(list(TOLERANCE)),
    kv_dtype=st.sampled_from(list(KV_DTYPES.values())),
    seed=st.integers(0, 1000),
)
def test_generated_shapes_equal_the_oracle(
    level: str,
    backend: TorchBackend,
    decodes: list[int],
    prefills: list[tuple[int, int]],
    heads: tuple[int, int],
    head_dim: int,
    block_size: int,
    order: str,
    packed: bool,
    window: int,
    softcap: float,
    dtype: torch.dtype,
    kv_dtype: torch.dtype | None,
    seed: int,
) -> None:
    if not decodes and not prefills:
        return
    step = build_step(
        backend,
        query_lens=[1] * len(decodes) + [length for length, _ in prefills],
        seq_lens=decodes + [length + context for length, context in prefills],
        layout=KVLayout(order=order, block_size=block_size, kv="packed" if packed else "split"),
        num_heads=heads[0],
        num_kv_heads=heads[1],
        head_dim=head_dim,
        dtype=dtype,
        kv_dtype=kv_dtype,
        seed=seed,
    )
    check(step, backend, AttentionParams(scale=head_dim**-0.5, window=window, softcap=softcap))


@pytest.mark.parametrize("query_len", [1, 40])
@pytest.mark.parametrize("window", [0, 700])
@pytest.mark.parametrize("kv_dtype", KV_DTYPES.values(), ids=KV_DTYPES)
def test_long_keys_are_split_among_threads(
    backend: TorchBackend, threads: int, query_len: int, window: int, kv_dtype: torch.dtype | None
) -> None:
    step = build_step(
        backend,
        query_lens=[query_len],
        seq_lens=[2500],
        layout=layout(),
        num_heads=4,
        num_kv_heads=1,
        head_dim=64,
        kv_dtype=kv_dtype,
    )
    sinks = torch.linspace(-1, 1, 4)
    check(step, backend, AttentionParams(scale=0.125, window=window, sinks=sinks))


def test_results_do_not_depend_on_the_batch(backend: TorchBackend) -> None:
    params = AttentionParams(scale=0.125)
    alone = build_step(backend, query_lens=[1], seq_lens=[200], layout=layout(), head_dim=64)
    many = build_step(
        backend, query_lens=[1, 1, 5], seq_lens=[200, 90, 64], layout=layout(), head_dim=64
    )
    many.query[0] = alone.query[0]
    for source, target in (
        (alone.pool.keys, many.pool.keys),
        (alone.pool.values, many.pool.values),
    ):
        blocks = source[LAYER][alone.batch.block_table[0, :7].long()]
        target[LAYER][many.batch.block_table[0, :7].long()] = blocks
    first, second = alone.run(backend.attention, params), many.run(backend.attention, params)
    assert torch.equal(first[0], second[0])


def test_queries_may_be_views_of_a_wider_tensor(level: str, backend: TorchBackend) -> None:
    step = build_step(
        backend, query_lens=[1, 9], seq_lens=[40, 50], layout=layout(), head_dim=64, num_heads=4
    )
    params = AttentionParams(scale=0.125)
    expected = step.run(backend.attention, params)
    wide = torch.full((10, 8, 64), torch.nan)
    wide[:, :4] = step.query
    step.query = wide[:, :4]
    out = torch.full((12, 6, 64), 7.0)
    plan = backend.attention.plan(step.batch, step.pool)
    backend.attention.run(step.pool, LAYER, step.query, plan, params, out[1:11, 1:5])
    assert torch.equal(out[1:11, 1:5], expected)
    out[1:11, 1:5] = 7.0
    assert torch.equal(out, torch.full_like(out, 7.0))


def test_padding_is_not_written_and_the_rest_is_copied(level: str, backend: TorchBackend) -> None:
    step = build_step(
        backend, query_lens=[1], seq_lens=[70], layout=layout(), head_dim=40, dtype=torch.bfloat16
    )
    keys, values = step.pool.keys[LAYER], step.pool.values[LAYER]
    before = [view.clone() for view in (keys, values)]
    new = torch.randn(4, 2, 80).to(torch.bfloat16)
    slots = torch.tensor([-1, 33, -1, 64])
    backend.attention.write_kv(step.pool, LAYER, new[..., :40], new[..., 40:], slots)
    for cache, old, rows in zip(
        (keys, values), before, (new[..., :40], new[..., 40:]), strict=True
    ):
        old[1, 1] = rows[1]
        old[2, 0] = rows[3]
        assert torch.equal(cache.isnan(), old.isnan())
        assert torch.equal(cache.nan_to_num(), old.nan_to_num())


def test_it_says_what_it_does_not_support() -> None:
    attention, params = CpuAttention(), AttentionParams(scale=1.0)
    spec = KVSpec(num_kv_heads=2, head_dim=64, dtype=torch.bfloat16)
    assert attention.supports(spec, layout(), torch.bfloat16, params)
    assert attention.supports(spec, KVLayout(order="LBNHC", block_size=16), torch.bfloat16, params)
    assert "same" in attention.supports(spec, layout(), torch.float16, params).reason
    assert "multiple of 16" in attention.supports(spec, layout(8), torch.bfloat16, params).reason
    last = attention.supports(spec, layout(order="LBHCN"), torch.bfloat16, params)
    assert "channels" in last.reason
    for kv_dtype in (torch.int8, torch.float8_e4m3fn):
        quantized = KVSpec(num_kv_heads=2, head_dim=64, dtype=kv_dtype)
        assert attention.supports(quantized, layout(), torch.float16, params)
    unsigned = KVSpec(num_kv_heads=2, head_dim=64, dtype=torch.uint8)
    assert "int8 or fp8" in attention.supports(unsigned, layout(), torch.float16, params).reason
    graph = attention.supports(spec, layout(), torch.bfloat16, params, GraphSupport.MIXED)
    assert not graph
