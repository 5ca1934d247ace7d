"""Fused decoder layers equal the ops, one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from windlass.backend import (
    AttentionParams,
    BackendConfig,
    DenseExperts,
    ExpertWeights,
    ForwardContext,
    HeadNorm,
    KVLayout,
    LayerParts,
    LayerWeights,
    Linear,
    MLPWeights,
    Quantization,
)
from windlass.kernels.linear import DenseWeight
from windlass.layers.decoder_layer import DecoderLayer
from windlass.layers.rotary_embedding import cos_sin_table
from windlass.testing.paged_step import LAYER, PagedStep, build_step
from windlass_cpu.backend import CpuBackend
from windlass_cpu.built import library_path
from windlass_cpu.layer import FusedLayers
from windlass_cpu.library import ISA_NAMES, best_isa, force_isa
from windlass_cpu.linear import pack_weight
from windlass_cpu.plugin import SPEC, windlass_op_providers

pytestmark = pytest.mark.skipif(library_path() is None, reason="the kernels were not built")

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE = 96, 6, 2, 32, 160


@pytest.fixture(scope="module")
def backend() -> CpuBackend:
    return CpuBackend(SPEC, BackendConfig(), op_providers=windlass_op_providers("cpu", ""))


@pytest.fixture(params=["scalar", "best"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    name = best_isa() if request.param == "best" else request.param
    assert name in ISA_NAMES
    force_isa(name)
    yield name
    force_isa(best_isa())


def random(*shape: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return (torch.randn(*shape, generator=generator) * scale).bfloat16()


def parts(
    index: int,
    *,
    biased: bool,
    normed: bool,
    window: int = 0,
    quantization: Quantization | None = None,
) -> LayerParts:
    """A layer with random weights, packed for the kernels."""

    def linear(outputs: int, inputs: int) -> Linear:
        weight = pack_weight(random(outputs, inputs, scale=inputs**-0.5), quantization)
        return Linear(weight, random(outputs, seed=1) if biased else None)

    heads = HeadNorm(random(HEAD_DIM, seed=2), random(HEAD_DIM, seed=3), 1e-6) if normed else None
    return LayerParts(
        index=index,
        weights=LayerWeights(
            input_norm=random(HIDDEN, seed=4),
            qkv=linear((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN),
            head_norm=heads,
            o=linear(HIDDEN, HEADS * HEAD_DIM),
            post_attention_norm=random(HIDDEN, seed=5),
            mlp=MLPWeights(
                gate_up=linear(2 * INTERMEDIATE, HIDDEN), down=linear(HIDDEN, INTERMEDIATE)
            ),
        ),
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        eps=1e-6,
        attention=AttentionParams(scale=HEAD_DIM**-0.5, window=window),
        cos_sin=cos_sin_table(
            tuple(10_000 ** (-2 * i / HEAD_DIM) for i in range(HEAD_DIM // 2)),
            1.0,
            256,
            torch.device("cpu"),
        ),
    )


def step_of(backend: CpuBackend, kv_dtype: torch.dtype | None = None, chunk: int = 5) -> PagedStep:
    """Two decodes and a prefill chunk over two layers; the last token is padding."""
    step = build_step(
        backend,
        query_lens=[1, 1, chunk],
        seq_lens=[40, 3, 16 + chunk],
        layout=KVLayout(order="LBHNC", block_size=16),
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        dtype=torch.bfloat16,
        kv_dtype=kv_dtype,
    )
    table, size = step.batch.block_table, step.pool.block_size
    slots = [
        int(table[request, position // size]) * size + position % size
        for request, position in tokens(chunk)
    ]
    step.batch.slot_mapping = torch.tensor([*slots[:-1], -1])
    pool = step.pool
    for cache in filter(None, (pool.keys, pool.values, pool.key_scales, pool.value_scales)):
        cache[LAYER - 1].copy_(cache[LAYER])
    return step


def tokens(chunk: int = 5) -> list[tuple[int, int]]:
    """Request and position of every token of the step."""
    return [(0, 39), (1, 2), *((2, position) for position in range(16, 16 + chunk))]


def no_ops(
    hidden: torch.Tensor, positions: torch.Tensor, context: ForwardContext
) -> tuple[torch.Tensor, torch.Tensor]:
    raise AssertionError("the kernels take steps of any size")


def context_of(backend: CpuBackend, step: PagedStep) -> ForwardContext:
    plan = backend.attention.plan(step.batch, step.pool)
    return ForwardContext(backend.attention, step.pool, plan, step.batch.slot_mapping)


@pytest.mark.parametrize(
    ("biased", "normed", "window", "kv_dtype"),
    [
        (False, True, 0, None),
        (True, False, 0, None),
        (False, True, 7, None),
        (False, True, 0, torch.int8),
        (True, False, 7, torch.float8_e4m3fn),
    ],
)
# A few tokens wait for memory; more are gated in the epilogue, in several groups of rows.
@pytest.mark.parametrize("chunk", [5, 40])
@pytest.mark.parametrize("quantization", [None, "int8", "int4"])
def test_fused_layers_equal_their_ops(
    isa: str,
    backend: CpuBackend,
    biased: bool,
    normed: bool,
    window: int,
    kv_dtype: torch.dtype | None,
    quantization: Quantization | None,
    chunk: int,
) -> None:
    layers = [
        parts(0, biased=biased, normed=normed, quantization=quantization),
        parts(1, biased=biased, normed=normed, window=window, quantization=quantization),
    ]
    fused = backend.fuse_layers(layers, no_ops)
    assert isinstance(fused, FusedLayers)
    first, second = (DecoderLayer(layer, backend.ops) for layer in layers)
    positions = torch.tensor([position for _, position in tokens(chunk)])
    embedded = random(len(positions), HIDDEN)

    step = step_of(backend, kv_dtype, chunk)
    context = context_of(backend, step)
    between = first(embedded, None, positions, context)
    expected = (*second(*between, positions, context), step.pool.buffer)

    step = step_of(backend, kv_dtype, chunk)
    context = context_of(backend, step)
    got = (*fused(embedded.clone(), positions, context), step.pool.buffer)
    assert expected[0].isfinite().all()
    for a, b in zip(expected, got, strict=True):
        assert torch.equal(a, b)


def test_fused_layers_follow_the_pool_they_are_called_with(backend: CpuBackend) -> None:
    fused = backend.fuse_layers([parts(1, biased=False, normed=False)], no_ops)
    assert fused is not None
    positions = torch.tensor([position for _, position in tokens()])
    outputs = []
    for _ in range(2):
        context = context_of(backend, step_of(backend))
        outputs.append(fused(random(len(positions), HIDDEN), positions, context)[0])
    assert torch.equal(*outputs)


def test_what_the_kernels_do_not_take_is_left_to_the_ops(backend: CpuBackend) -> None:
    layer = parts(1, biased=False, normed=False)
    dense = Linear(DenseWeight(random(HIDDEN, INTERMEDIATE)))
    gate_up = layer.weights.mlp.gate_up
    sparse = ExpertWeights(
        router=Linear(DenseWeight(random(4, HIDDEN))),
        experts=DenseExperts(random(4, 64, HIDDEN), random(4, HIDDEN, 32)),
        top_k=2,
        renormalize=True,
    )
    for mlp in (MLPWeights(gate_up=gate_up, down=dense), sparse):
        mixed = dataclasses.replace(layer, weights=dataclasses.replace(layer.weights, mlp=mlp))
        assert backend.fuse_layers([layer, mixed], no_ops) is None
    wide = dataclasses.replace(layer, head_dim=2048)
    assert backend.fuse_layers([wide], no_ops) is None


def test_an_order_of_ops_given_by_the_user_is_followed() -> None:
    config = BackendConfig(ops={"rms_norm": ["reference"]})
    chosen = CpuBackend(SPEC, config, op_providers=windlass_op_providers("cpu", ""))
    assert chosen.fuse_layers([parts(1, biased=False, normed=False)], no_ops) is None
