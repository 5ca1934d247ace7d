"""Attention by Triton's kernels: whole steps against the oracle, who prefills, what it refuses."""

from __future__ import annotations

import copy
import logging
import os

import pytest
import torch

from windlass.backend import (
    AttentionParams,
    BackendConfig,
    GraphSupport,
    HeadNorm,
    KVLayout,
    KVSpec,
    TorchBackend,
)
from windlass.backend.triton.attention import TritonAttention
from windlass.backend.triton.prefill_providers import PrefillProvider
from windlass.backend.triton.tuning import PrefillRule, TritonTuning
from windlass.plugin import BackendSpec
from windlass.testing.paged_step import LAYER, PagedStep, build_step

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
MIXED = [(1, 70), (1, 0), (5, 20), (40, 0), (33, 30)]
"""Query tokens and tokens cached before them."""
DTYPE = torch.float16 if os.environ["TRITON_INTERPRET"] == "1" else torch.bfloat16


def torch_backend(tuning: TritonTuning) -> TorchBackend:
    spec = BackendSpec(name="test", target="", device_type=tuning.device_type, priority=0)
    return TorchBackend(spec, BackendConfig())


def step_of(tuning: TritonTuning, chunks: list[tuple[int, int]], **kwargs: object) -> PagedStep:
    """A step over a cache that torch's operations have written."""
    return build_step(
        torch_backend(tuning),
        query_lens=[new for new, _ in chunks],
        seq_lens=[new + history for new, history in chunks],
        layout=KVLayout(order="LBHNC", block_size=64),
        **kwargs,  # type: ignore[arg-type]
    )


def check(own: TritonAttention, step: PagedStep, params: AttentionParams) -> None:
    tolerance = TOLERANCE[step.query.dtype]
    expected, expected_lse = step.expected(params)
    lse = torch.full_like(expected_lse, torch.nan)
    for wanted in (lse, None):
        out = step.run(own, params, wanted)
        torch.testing.assert_close(out, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(lse, expected_lse, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("chunks", [MIXED, MIXED[:2], MIXED[3:]])
def test_steps(tuning: TritonTuning, chunks: list[tuple[int, int]]) -> None:
    own, step = TritonAttention(tuning), step_of(tuning, chunks, dtype=DTYPE)
    for window in (0, 40):
        check(own, step, AttentionParams(scale=0.25, window=window))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kv_dtype", [None, torch.float8_e4m3fn])
def test_cache_dtypes(
    tuning: TritonTuning, dtype: torch.dtype, kv_dtype: torch.dtype | None
) -> None:
    if kv_dtype is not None and not tuning.supports_kv(kv_dtype):
        pytest.skip(tuning.supports_kv(kv_dtype).reason)
    own = TritonAttention(tuning)
    step = step_of(tuning, [(1, 70), (20, 0)], dtype=dtype, kv_dtype=kv_dtype)
    check(own, step, AttentionParams(scale=0.25))


def test_layers_with_different_windows_share_a_plan(tuning: TritonTuning) -> None:
    own, step = TritonAttention(tuning), step_of(tuning, [(1, 80), (1, 3)], dtype=DTYPE)
    plan = own.plan(step.batch, step.pool, capture=True)
    own.plan_in_graph(plan)
    for window in (0, 10, 0):
        params = AttentionParams(scale=0.25, window=window)
        out = torch.full_like(step.query, torch.nan)
        own.run(step.pool, LAYER, step.query, plan, params, out)
        tolerance = TOLERANCE[DTYPE]
        torch.testing.assert_close(out, step.expected(params)[0], atol=tolerance, rtol=tolerance)


def test_rope_and_write(tuning: TritonTuning) -> None:
    """What the fused launch stores and returns is what the ops would."""
    own, step = TritonAttention(tuning), step_of(tuning, [(4, 0)], dtype=DTYPE, head_dim=32)
    backend = torch_backend(tuning)
    device = step.query.device
    fused = torch.randn(4, 8, 32, device=device).to(DTYPE)
    positions = torch.arange(4, device=device)
    cos_sin = torch.randn(8, 32, device=device)
    weight = torch.ones(32, dtype=DTYPE, device=device)
    slots = positions + 64
    arguments = (positions, cos_sin, slots, HeadNorm(weight, weight, 1e-6), backend.ops)
    stored = []
    for attend in (own, backend.attention):
        query, key, value = fused.clone().tensor_split((4, 6), dim=1)
        rotated = attend.rope_and_write(step.pool, 0, query, key, value, *arguments)
        written = (side[0][1, :4].clone() for side in (step.pool.keys, step.pool.values))
        stored.append((rotated, *written))
    for actual, expected in zip(*stored, strict=True):
        torch.testing.assert_close(actual, expected, atol=2e-2, rtol=1e-2)


def test_write_kv(tuning: TritonTuning) -> None:
    own, step = TritonAttention(tuning), step_of(tuning, [(3, 0)], dtype=DTYPE)
    key, value = torch.randn(2, 3, 2, 16, device=step.query.device).to(DTYPE)
    slots = torch.tensor([70, -1, 64], device=step.query.device)
    before = step.pool.keys[LAYER].nan_to_num(7.0).clone()
    own.write_kv(step.pool, LAYER, key, value, slots)
    assert torch.equal(step.pool.keys[LAYER][1, [6, 0]], key[[0, 2]])
    assert torch.equal(step.pool.values[LAYER][1, [6, 0]], value[[0, 2]])
    after = step.pool.keys[LAYER].nan_to_num(7.0)
    assert (after != before).any(-1).sum() == 2 * 2


class Recorder(PrefillProvider):
    """A provider that works, or not, and tells which rows it was given."""

    name = "recorder"

    def __init__(self, error: str = "") -> None:
        self.rows: list[tuple[int, int]] = []
        self.error = error

    def run(self, query, keys, values, chunks, params, out, config) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        self.rows.append((chunks.first_row, chunks.end_row))
        if self.error:
            raise RuntimeError(self.error)
        starts = chunks.cu_seqlens_k
        key, value = chunks.gather(keys, values, starts, chunks.seq_lens, query.dtype, config)
        assert len(key) == len(value) == sum(chunks.seq_lens)
        assert chunks.cu_seqlens_q.tolist()[-1] == sum(chunks.query_lens)
        out[chunks.tokens] = 3.0


def ruled(tuning: TritonTuning, *whole_prompt: bool) -> TritonTuning:
    """The tuning with every chunk of 30 tokens and more given away, of these kinds."""
    found = copy.copy(tuning)
    found.prefill_rules = [
        PrefillRule(provider=Recorder.name, whole_prompt=whole, min_query_len=30)
        for whole in whole_prompt
    ]
    return found


def test_a_provider_takes_the_chunks_of_its_rule(tuning: TritonTuning) -> None:
    step, recorder = step_of(tuning, [*MIXED, (32, 3)], dtype=DTYPE), Recorder()
    own = TritonAttention(ruled(tuning, False), {recorder.name: recorder})
    out = step.run(own, AttentionParams(scale=0.25))
    assert recorder.rows == [(4, 6)]
    first = step.batch.cu_seqlens_q_cpu[4]
    assert (out[first:] == 3).all()
    expected, _ = step.expected(AttentionParams(scale=0.25))
    torch.testing.assert_close(out[:first], expected[:first], atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    "params",
    [
        AttentionParams(scale=0.25, softcap=2.0),
        AttentionParams(scale=0.25, sinks=torch.zeros(4)),
    ],
)
def test_a_provider_is_not_given_what_it_cannot_do(
    tuning: TritonTuning, params: AttentionParams
) -> None:
    step, recorder = step_of(tuning, [(40, 0)], dtype=DTYPE), Recorder()
    own = TritonAttention(ruled(tuning, True, False), {recorder.name: recorder})
    if params.sinks is not None:
        params = AttentionParams(scale=0.25, sinks=params.sinks.to(step.query.device))
    check(own, step, params)
    assert not recorder.rows


def test_a_provider_that_fails_is_left_out(
    tuning: TritonTuning, caplog: pytest.LogCaptureFixture
) -> None:
    step, recorder = step_of(tuning, [(40, 0)], dtype=DTYPE), Recorder("no engine for this")
    own = TritonAttention(ruled(tuning, True), {recorder.name: recorder})
    with caplog.at_level(logging.WARNING):
        check(own, step, AttentionParams(scale=0.25))
        check(own, step, AttentionParams(scale=0.25))
    assert len(recorder.rows) == 1
    assert "no engine for this" in caplog.text


def test_support(neutral: TritonTuning) -> None:
    layout, params, half = KVLayout(order="LBHNC"), AttentionParams(scale=1.0), torch.bfloat16
    without_fp8 = copy.copy(neutral)
    without_fp8.has_fp8 = False

    def ask(dtype: torch.dtype, head_dim: int = 128, **kwargs: object) -> str:
        spec = KVSpec(num_kv_heads=2, head_dim=head_dim, dtype=dtype)
        own = TritonAttention(without_fp8)
        return own.supports(spec, layout, half, params, **kwargs).reason  # type: ignore[arg-type]

    assert not ask(half)
    assert not ask(half, graph=GraphSupport.DECODE_UNIFORM)
    assert "only steps of decodes" in ask(half, graph=GraphSupport.MIXED)
    assert "int8" in ask(torch.int8)
    assert "neutral cannot convert fp8" in ask(torch.float8_e4m3fn)
    assert "at most 256 channels" in ask(half, head_dim=512)
    without_fp8.has_fp8 = True
    assert not ask(torch.float8_e4m3fn)
