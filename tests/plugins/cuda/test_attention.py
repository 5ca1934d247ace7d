"""The plugin's attention: its tables, the providers for long prompts, and graphs on a GPU."""

from __future__ import annotations

import os

import pytest
import torch

from windlass.backend import AttentionParams, BackendConfig, KVLayout, TorchBackend
from windlass.plugin import BackendSpec
from windlass.testing.paged_step import LAYER, PagedStep, build_step

pytest.importorskip("triton")

from windlass.backend.triton.attention import TritonAttention
from windlass.backend.triton.tuning import PrefillRule
from windlass_cuda.device import tuning_of
from windlass_cuda.torch_prefill import TorchFlash, installed_providers
from windlass_cuda.tuning import CudaTuning, known

INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"
DTYPE = torch.float16 if INTERPRETED else torch.bfloat16


def step_of(chunks: list[tuple[int, int]], **kwargs: object) -> PagedStep:
    """A step over a cache that torch's operations have written."""
    kind = "cpu" if INTERPRETED else "cuda"
    spec = BackendSpec(name="test", target="", device_type=kind, priority=0)
    return build_step(
        TorchBackend(spec, BackendConfig()),
        query_lens=[new for new, _ in chunks],
        seq_lens=[new + history for new, history in chunks],
        layout=KVLayout(order="LBHNC", block_size=64),
        **kwargs,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("head_dim", [16, 128])
def test_steps(head_dim: int) -> None:
    """The interpreter has no overlapping launches, as sm_80."""
    tuning = CudaTuning("sm_80", 2, "cpu") if INTERPRETED else tuning_of()
    step = step_of([(1, 70), (1, 0), (5, 20), (40, 0)], dtype=DTYPE, head_dim=head_dim)
    params = AttentionParams(scale=0.25)
    out = step.run(TritonAttention(tuning, installed_providers()), params)
    torch.testing.assert_close(out, step.expected(params)[0], atol=2e-2, rtol=2e-2)


@pytest.mark.skipif(INTERPRETED, reason="torch has these for GPUs only")
@pytest.mark.parametrize("name", ["torch_flash", "cudnn", "flash_attention_3"])
def test_providers_equal_the_oracle(name: str) -> None:
    tuning, providers = tuning_of(), installed_providers()
    if name not in providers:
        pytest.skip(f"{name} is not installed")
    tuning.prefill_rules = tuple(
        PrefillRule(provider=name, whole_prompt=whole, min_query_len=30)
        for whole in ((True,) if name == "cudnn" else (True, False))
    )
    own = TritonAttention(tuning, providers)
    chunks = [(1, 10), (300, 0), (256, 0), (64, 200)]
    step = step_of(chunks, dtype=DTYPE, head_dim=128, num_heads=8)
    for window in (0, 100):
        params = AttentionParams(scale=128**-0.5, window=window)
        out = step.run(own, params)
        torch.testing.assert_close(out, step.expected(params)[0], atol=2e-2, rtol=2e-2)
        assert name in own._providers  # it did not fail


@pytest.mark.skipif(INTERPRETED, reason="graphs are a GPU's")
def test_a_captured_step_serves_other_lengths() -> None:
    own, step = (
        TritonAttention(tuning_of()),
        step_of([(1, 700), (1, 300), (1, 64), (1, 5)], dtype=DTYPE),
    )
    params = AttentionParams(scale=0.25)
    out = torch.full_like(step.query, torch.nan)
    graph = torch.cuda.CUDAGraph()
    step.batch.max_seq_len = 4096

    def work() -> object:
        plan = own.plan(step.batch, step.pool, capture=True)
        own.plan_in_graph(plan)
        for _ in range(2):
            own.run(step.pool, LAYER, step.query, plan, params, out)
        return plan

    work()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        kept = work()
    for lengths in ([701, 301, 65, 6], [1, 1, 1, 1], [640, 2, 64, 3]):
        step.batch.seq_lens.copy_(torch.tensor(lengths))
        step.batch.seq_lens_cpu = lengths
        out.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
        torch.testing.assert_close(out, step.expected(params)[0], atol=2e-2, rtol=2e-2)
    del kept


def test_fp8_caches_are_for_chips_that_convert_fp8() -> None:
    refused = CudaTuning("sm_80", 108).supports_kv(torch.float8_e4m3fn)
    assert refused.reason == "sm_80 cannot convert fp8"
    assert CudaTuning("sm_90", 132).supports_kv(torch.float8_e4m3fn)


def test_the_table_of_providers() -> None:
    assert CudaTuning("sm_90", 100).prefill_providers(128, 8192, 8192) == ["cudnn"]
    assert CudaTuning("sm_90", 100).prefill_providers(256, 8192, 8192) == []
    assert CudaTuning("sm_90", 100).prefill_providers(128, 4096, 8192) == []
    assert CudaTuning("sm_90", 100).prefill_providers(128, 2048, 2048) == []
    assert CudaTuning("sm_80", 100).prefill_providers(128, 512, 8192) == ["torch_flash"]


@pytest.mark.parametrize(
    ("arch", "taken"),
    [
        ("sm_75", "sm_80"),
        ("sm_86", "sm_80"),
        ("sm_90", "sm_90"),
        ("sm_103", "sm_100"),
        ("sm_120", "sm_80"),
    ],
)
def test_other_chips_take_their_predecessors_entries(arch: str, taken: str) -> None:
    assert known(arch) == taken


def test_flash_refuses_float32() -> None:
    assert not TorchFlash().supports(torch.float32, 128, AttentionParams(scale=1.0))
