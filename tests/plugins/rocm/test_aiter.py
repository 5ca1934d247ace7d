"""aiter is asked for what it takes, in its own words, over a stand-in for the library."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from windlass.backend import AttentionParams, BackendConfig, KVLayout, OpRegistry, TorchBackend
from windlass.backend.triton.ops import TritonOps
from windlass.kernels import REFERENCES
from windlass.plugin import BackendSpec
from windlass.testing.paged_step import LAYER, build_step
from windlass_rocm.attention import RocmAttention
from windlass_rocm.packed_layout import PackedKVLayout
from windlass_rocm.providers import aiter_providers
from windlass_rocm.tuning import RocmTuning

PARAMS = AttentionParams(scale=0.125)


def step_over(layout: KVLayout, **kwargs: Any) -> tuple[Any, RocmAttention]:
    spec = BackendSpec(name="host", target="", device_type="cpu", priority=0)
    backend = TorchBackend(spec, BackendConfig())
    attention = RocmAttention(RocmTuning("gfx942", 2, "cpu"), aiter_installed=True)
    backend.attention = attention
    step = build_step(
        backend, query_lens=[1, 1], seq_lens=[40, 300], layout=layout, head_dim=64,
        dtype=torch.float16, **kwargs,
    )  # fmt: skip
    return step, attention


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was asked of aiter's paged attention; it answers 7."""
    asked: list[tuple[Any, ...]] = []

    def paged_attention_rocm(out: torch.Tensor, *arguments: Any) -> None:
        out.fill_(7)
        asked.append(arguments)

    library = SimpleNamespace(paged_attention_rocm=paged_attention_rocm)
    monkeypatch.setitem(sys.modules, "aiter", library)
    return asked


def test_plain_decodes_over_a_packed_cache_go_to_aiter(calls: list[tuple[Any, ...]]) -> None:
    step, attention = step_over(PackedKVLayout(block_size=16))
    out = torch.zeros_like(step.query)
    attention.run(step.pool, LAYER, step.query, attention.plan(step.batch, step.pool), PARAMS, out)
    assert out.eq(7).all()
    ((sums, largest, partial, query, keys, values, heads, scale, *rest),) = calls
    assert sums.shape == largest.shape == (2, 4, 2)  # 300 tokens are two parts of 256
    assert partial.shape == (2, 4, 2, 64)
    assert query.shape == (2, 4, 64)
    assert (keys.shape[1:], values.shape[1:]) == ((2, 8, 16, 8), (2, 64, 16))
    assert (heads, scale) == (2, 0.125)
    tables, lens, block_size, longest = rest[:4]
    assert (tables.shape[0], lens.tolist(), block_size, longest) == (2, [40, 300], 16, 300)


def test_what_aiter_does_not_take_runs_in_our_kernels(calls: list[tuple[Any, ...]]) -> None:
    for layout, params in (
        (KVLayout(order="LBHNC", block_size=16), PARAMS),
        (PackedKVLayout(block_size=16), AttentionParams(scale=0.125, window=20)),
    ):
        step, attention = step_over(layout)
        expected, _ = step.expected(params)
        out = torch.zeros_like(expected)
        plan = attention.plan(step.batch, step.pool)
        attention.run(step.pool, LAYER, step.query, plan, params, out)
        torch.testing.assert_close(out, expected, atol=2e-3, rtol=2e-3)
    assert not calls


def test_ops_go_to_aiter_for_who_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def silu_and_mul(out: torch.Tensor, x: torch.Tensor) -> None:
        out.fill_(7)

    monkeypatch.setitem(sys.modules, "aiter", SimpleNamespace(silu_and_mul=silu_and_mul))
    providers = aiter_providers("gfx942")
    ops = OpRegistry(REFERENCES, providers, arch="gfx942", order={"silu_mul": ["aiter"]})
    assert ops.silu_mul(torch.ones(2, 8, dtype=torch.float16)).eq(7).all()
    # float32 is not taken.
    assert not ops.silu_mul(torch.ones(2, 8)).eq(7).any()


def test_aiter_stands_behind_our_kernels_and_on_cdna_only() -> None:
    own = TritonOps(RocmTuning("gfx950", 256, "cpu"))
    ops = OpRegistry(REFERENCES, aiter_providers("gfx950"), own=own.own_ops())
    assert ops.rms_norm == own.rms_norm
    (norm,) = (op for op in ops if op.name == "rms_norm")
    assert [candidate.name for candidate in norm.candidates] == ["triton", "aiter", "reference"]
    assert aiter_providers("gfx1100") == ()
