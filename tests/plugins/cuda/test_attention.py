"""The plugin's attention: whole steps against the oracle, who prefills, what it refuses."""

from __future__ import annotations

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
from windlass.plugin import BackendSpec
from windlass.testing.paged_step import LAYER, PagedStep, build_step
from windlass_cuda import tuning
from windlass_cuda.attention import CudaAttention
from windlass_cuda.torch_prefill import PrefillProvider, TorchFlash

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
MIXED = [(1, 70), (1, 0), (5, 20), (40, 0), (33, 30)]
"""Query tokens and tokens cached before them."""
INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"
DTYPE = torch.float16 if INTERPRETED else torch.bfloat16


def attention() -> CudaAttention:
    """On a GPU for its own chip; the interpreter has no overlapping launches, as sm_80."""
    if INTERPRETED:
        return CudaAttention("sm_80", 2, torch.device("cpu"))
    properties = torch.cuda.get_device_properties(0)
    arch = f"sm_{properties.major}{properties.minor}"
    return CudaAttention(arch, properties.multi_processor_count, torch.device("cuda"))


def torch_backend() -> TorchBackend:
    kind = "cpu" if INTERPRETED else "cuda"
    spec = BackendSpec(name="test", target="none:None", device_type=kind, priority=0)
    return TorchBackend(spec, BackendConfig())


def step_of(chunks: list[tuple[int, int]], **kwargs: object) -> tuple[CudaAttention, PagedStep]:
    """A step over a cache that torch's operations have written."""
    step = build_step(
        torch_backend(),
        query_lens=[new for new, _ in chunks],
        seq_lens=[new + history for new, history in chunks],
        layout=KVLayout(order="LBHNC", block_size=64),
        **kwargs,  # type: ignore[arg-type]
    )
    return attention(), step


def check(own: CudaAttention, step: PagedStep, params: AttentionParams) -> None:
    tolerance = TOLERANCE[step.query.dtype]
    expected, expected_lse = step.expected(params)
    lse = torch.full_like(expected_lse, torch.nan)
    for wanted in (lse, None):
        out = step.run(own, params, wanted)
        torch.testing.assert_close(out, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(lse, expected_lse, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("chunks", [MIXED, MIXED[:2], MIXED[3:]])
def test_steps(chunks: list[tuple[int, int]]) -> None:
    own, step = step_of(chunks, dtype=DTYPE)
    for window in (0, 40):
        check(own, step, AttentionParams(scale=0.25, window=window))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kv_dtype", [None, torch.float8_e4m3fn])
def test_cache_dtypes(dtype: torch.dtype, kv_dtype: torch.dtype | None) -> None:
    own, step = step_of([(1, 70), (20, 0)], dtype=dtype, kv_dtype=kv_dtype)
    check(own, step, AttentionParams(scale=0.25))


def test_layers_with_different_windows_share_a_plan() -> None:
    own, step = step_of([(1, 80), (1, 3)], dtype=DTYPE)
    plan = own.plan(step.batch, step.pool, capture=True)
    own.plan_in_graph(plan)
    for window in (0, 10, 0):
        params = AttentionParams(scale=0.25, window=window)
        out = torch.full_like(step.query, torch.nan)
        own.run(step.pool, LAYER, step.query, plan, params, out)
        tolerance = TOLERANCE[DTYPE]
        torch.testing.assert_close(out, step.expected(params)[0], atol=tolerance, rtol=tolerance)


def test_rope_and_write() -> None:
    """What the fused launch stores and returns is what the ops would."""
    own, step = step_of([(4, 0)], dtype=DTYPE, head_dim=32)
    backend = torch_backend()
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


def test_write_kv() -> None:
    own, step = step_of([(3, 0)], dtype=DTYPE)
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

    name = "torch_flash"

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


def rules(monkeypatch: pytest.MonkeyPatch, *wanted: tuple[str, bool]) -> None:
    """Every chunk of more than 30 tokens goes to (provider, whether for whole prompts)."""
    table = tuple(
        tuning.PrefillRule(provider=name, whole_prompt=whole, min_query_len=30)
        for name, whole in wanted
    )
    monkeypatch.setattr(tuning, "PREFILL_RULES", dict.fromkeys(tuning.ARCHITECTURES, table))


def test_a_provider_takes_the_chunks_of_its_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    rules(monkeypatch, ("torch_flash", False))
    own, step = step_of([*MIXED, (32, 3)], dtype=DTYPE)
    recorder = Recorder()
    own._providers = {"torch_flash": recorder}
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
    monkeypatch: pytest.MonkeyPatch, params: AttentionParams
) -> None:
    rules(monkeypatch, ("torch_flash", True), ("torch_flash", False))
    own, step = step_of([(40, 0)], dtype=DTYPE)
    if params.sinks is not None:
        params = AttentionParams(scale=0.25, sinks=params.sinks.to(step.query.device))
    recorder = Recorder()
    own._providers = {"torch_flash": recorder}
    check(own, step, params)
    assert not recorder.rows


def test_a_provider_that_fails_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rules(monkeypatch, ("torch_flash", True))
    own, step = step_of([(40, 0)], dtype=DTYPE)
    recorder = Recorder(error="no engine for this")
    own._providers = {"torch_flash": recorder}
    with caplog.at_level(logging.WARNING):
        check(own, step, AttentionParams(scale=0.25))
        check(own, step, AttentionParams(scale=0.25))
    assert len(recorder.rows) == 1
    assert "no engine for this" in caplog.text


@pytest.mark.skipif(INTERPRETED, reason="torch has these for GPUs only")
@pytest.mark.parametrize("name", ["torch_flash", "cudnn", "flash_attention_3"])
def test_providers_equal_the_oracle(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    rules(monkeypatch, (name, True), *([] if name == "cudnn" else [(name, False)]))
    chunks = [(1, 10), (300, 0), (256, 0), (64, 200)]
    own, step = step_of(chunks, dtype=DTYPE, head_dim=128, num_heads=8)
    if name not in own._providers:
        pytest.skip(f"{name} is not installed")
    for window in (0, 100):
        params = AttentionParams(scale=128**-0.5, window=window)
        out = step.run(own, params)
        torch.testing.assert_close(out, step.expected(params)[0], atol=2e-2, rtol=2e-2)
        assert name in own._providers  # it did not fail


@pytest.mark.skipif(INTERPRETED, reason="graphs are a GPU's")
def test_a_captured_step_serves_other_lengths() -> None:
    own, step = step_of([(1, 700), (1, 300), (1, 64), (1, 5)], dtype=DTYPE)
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


def test_support() -> None:
    own, layout = CudaAttention("sm_80", 108, torch.device("cpu")), KVLayout(order="LBHNC")
    params, half = AttentionParams(scale=1.0), torch.bfloat16

    def ask(dtype: torch.dtype, head_dim: int = 128, **kwargs: object) -> str:
        spec = KVSpec(num_kv_heads=2, head_dim=head_dim, dtype=dtype)
        return own.supports(spec, layout, half, params, **kwargs).reason  # type: ignore[arg-type]

    assert not ask(half)
    assert not ask(half, graph=GraphSupport.DECODE_UNIFORM)
    assert "only steps of decodes" in ask(half, graph=GraphSupport.MIXED)
    assert "int8" in ask(torch.int8)
    assert "sm_80 cannot convert fp8" in ask(torch.float8_e4m3fn)
    assert "at most 256 channels" in ask(half, head_dim=512)
    own = CudaAttention("sm_90", 132, torch.device("cpu"))
    assert not ask(torch.float8_e4m3fn)


def test_the_table_of_providers() -> None:
    assert tuning.prefill_providers("sm_90", 128, 8192, 8192) == ["cudnn"]
    assert tuning.prefill_providers("sm_90", 256, 8192, 8192) == []
    assert tuning.prefill_providers("sm_90", 128, 4096, 8192) == []
    assert tuning.prefill_providers("sm_90", 128, 2048, 2048) == []
    assert tuning.prefill_providers("sm_80", 128, 512, 8192) == ["torch_flash"]


@pytest.mark.parametrize(
    ("arch", "known"),
    [
        ("sm_75", "sm_80"),
        ("sm_86", "sm_80"),
        ("sm_90", "sm_90"),
        ("sm_103", "sm_100"),
        ("sm_120", "sm_80"),
    ],
)
def test_other_chips_take_their_predecessors_entries(arch: str, known: str) -> None:
    assert tuning.known(arch) == known


def test_flash_refuses_float32() -> None:
    assert not TorchFlash().supports(torch.float32, 128, AttentionParams(scale=1.0))
