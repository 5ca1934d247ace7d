"""The default attention against the oracle, and the oracle against dense attention in float64."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windlass.backend import AttentionParams, KVLayout, TorchBackend, torch_attention
from windlass.testing.paged_step import LAYER, build_step

VARIANTS = {
    "plain": AttentionParams(scale=0.25),
    "window": AttentionParams(scale=0.25, window=3),
    "softcap": AttentionParams(scale=0.25, softcap=1.5),
    "sinks": AttentionParams(scale=0.25, sinks=torch.linspace(-1, 1, 4)),
    "all": AttentionParams(scale=0.3, window=5, softcap=2.0, sinks=torch.linspace(-1, 1, 4)),
}
MIXED = {"query_lens": [1, 1, 1, 6, 9, 2], "seq_lens": [5, 1, 16, 7, 9, 33]}


@pytest.mark.parametrize("params", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("order", ["LBNHC", "LBHNC", "BLNHC"])
@pytest.mark.parametrize("kv", ["split", "packed"])
def test_mixed_steps_equal_the_oracle(
    backend: TorchBackend, params: AttentionParams, order: str, kv: str
) -> None:
    layout = KVLayout(order=order, kv="packed" if kv == "packed" else "split", block_size=4)
    step = build_step(backend, layout=layout, **MIXED)
    lse = torch.full(step.query.shape[:2], torch.nan)
    out, expected_lse = step.expected(params)
    assert torch.allclose(step.run(backend.attention, params), out, atol=2e-6)
    assert torch.allclose(step.run(backend.attention, params, lse), out, atol=2e-6)
    assert torch.allclose(lse, expected_lse, atol=2e-6)


@pytest.mark.parametrize("params", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("kv", ["split", "packed"])
@pytest.mark.parametrize("kv_dtype", [torch.int8, torch.float8_e4m3fn])
def test_a_quantized_cache_equals_the_oracle_and_is_close_to_a_plain_one(
    backend: TorchBackend, params: AttentionParams, kv: str, kv_dtype: torch.dtype
) -> None:
    layout = KVLayout(order="LBHNC", kv="packed" if kv == "packed" else "split", block_size=4)
    step = build_step(backend, layout=layout, kv_dtype=kv_dtype, **MIXED)
    lse = torch.full(step.query.shape[:2], torch.nan)
    out, expected_lse = step.expected(params)
    assert torch.allclose(step.run(backend.attention, params), out, atol=2e-6)
    assert torch.allclose(step.run(backend.attention, params, lse), out, atol=2e-6)
    assert torch.allclose(lse, expected_lse, atol=2e-6)
    plain, _ = build_step(backend, layout=layout, **MIXED).expected(params)
    assert (out - plain).abs().max() < (0.03 if kv_dtype == torch.int8 else 0.2)


@pytest.mark.parametrize("params", VARIANTS.values(), ids=VARIANTS)
def test_the_oracle_is_dense_attention(backend: TorchBackend, params: AttentionParams) -> None:
    step = build_step(backend, **MIXED)
    out, _ = step.expected(params)
    for r, length in enumerate(step.batch.seq_lens_cpu):
        tokens = slice(*step.batch.cu_seqlens_q_cpu[r : r + 2])
        query = step.query[tokens].double()
        key, value = (x[r].double().repeat_interleave(2, dim=1) for x in (step.keys, step.values))
        for i in range(len(query)):
            position = length - len(query) + i
            first = max(0, position - params.window + 1) if params.window else 0
            scores = torch.einsum("hd,shd->hs", query[i], key[first : position + 1]) * params.scale
            if params.softcap:
                scores = params.softcap * torch.tanh(scores / params.softcap)
            if params.sinks is not None:
                scores = torch.cat((scores, params.sinks.double()[:, None]), dim=-1)
            weights = scores.softmax(-1)[:, : position + 1 - first]
            expected = torch.einsum("hs,shd->hd", weights, value[first : position + 1])
            assert torch.allclose(out[tokens][i].double(), expected, atol=1e-5)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    decodes=st.lists(st.integers(1, 70), max_size=4),
    prefills=st.lists(st.tuples(st.integers(2, 20), st.integers(0, 50)), max_size=3),
    heads=st.sampled_from([(1, 1), (4, 1), (6, 2), (8, 8), (5, 1)]),
    head_dim=st.sampled_from([8, 24, 64]),
    block_size=st.sampled_from([1, 4, 16, 32]),
    window=st.sampled_from([0, 1, 7]),
    seed=st.integers(0, 1000),
)
def test_generated_shapes_equal_the_oracle(
    backend: TorchBackend,
    decodes: list[int],
    prefills: list[tuple[int, int]],
    heads: tuple[int, int],
    head_dim: int,
    block_size: int,
    window: int,
    seed: int,
) -> None:
    if not decodes and not prefills:
        return
    step = build_step(
        backend,
        query_lens=[1] * len(decodes) + [length for length, _ in prefills],
        seq_lens=decodes + [length + context for length, context in prefills],
        layout=KVLayout(block_size=block_size),
        num_heads=heads[0],
        num_kv_heads=heads[1],
        head_dim=head_dim,
        seed=seed,
    )
    params = AttentionParams(scale=head_dim**-0.5, window=window)
    out, _ = step.expected(params)
    assert torch.allclose(step.run(backend.attention, params), out, atol=5e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(backend: TorchBackend, dtype: torch.dtype) -> None:
    step = build_step(backend, dtype=dtype, **MIXED)
    params = VARIANTS["plain"]
    out, _ = step.expected(params)
    assert torch.allclose(step.run(backend.attention, params), out, atol=2e-2)


def test_small_work_areas_change_nothing(
    backend: TorchBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = build_step(backend, **MIXED)
    expected = step.run(backend.attention, VARIANTS["all"])
    monkeypatch.setattr(torch_attention, "_GATHER_BYTES", 1)
    monkeypatch.setattr(torch_attention, "_SCORE_NUMBERS", 1)
    assert torch.allclose(step.run(backend.attention, VARIANTS["all"]), expected, atol=2e-6)


def test_padding_is_not_written(backend: TorchBackend) -> None:
    step = build_step(backend, **MIXED)
    before = [view[1:].clone() for view in (step.pool.keys[LAYER], step.pool.values[LAYER])]
    key = torch.full((3, 2, 16), 7.0)
    backend.attention.write_kv(step.pool, LAYER, key, key, torch.tensor([-1, -1, -1]))
    after = [view[1:] for view in (step.pool.keys[LAYER], step.pool.values[LAYER])]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old.isnan(), new.isnan())
        assert torch.equal(old.nan_to_num(), new.nan_to_num())
