"""Fused decoder layers equal the ops, one by one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from windlass.backend import (
    AttentionBatch,
    AttentionParams,
    DenseWeight,
    ForwardContext,
    HeadNorm,
    KVLayout,
    KVPool,
    KVSpec,
    LayerParts,
    LayerWeights,
    Linear,
    MLPWeights,
    OpRegistry,
    TorchAttention,
)
from windlass.backend.triton.layers import FusedLayers, fuse_layers
from windlass.backend.triton.linear import TritonWeight
from windlass.backend.triton.tuning import TritonTuning
from windlass.kernels.reference import REFERENCES
from windlass.layers.decoder_layer import DecoderLayer

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE = 48, 4, 2, 16, 40
OPS = OpRegistry(REFERENCES)
DTYPE = torch.float16


def random(device: torch.device, *shape: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return (torch.randn(*shape, generator=generator) * scale).to(device, DTYPE)


def parts(tuning: TritonTuning, index: int, *, biased: bool, normed: bool) -> LayerParts:
    device = torch.device(tuning.device_type)

    def linear(outputs: int, inputs: int) -> Linear:
        weight = random(device, outputs, inputs, scale=inputs**-0.5, seed=index)
        bias = random(device, outputs, seed=1) if biased else None
        return Linear(TritonWeight(weight, tuning), bias)

    def factors(seed: int, size: int = HIDDEN) -> torch.Tensor:
        return 1 + random(device, size, scale=0.1, seed=seed)

    heads = HeadNorm(factors(2, HEAD_DIM), factors(3, HEAD_DIM), 1e-6) if normed else None
    angles = torch.arange(64)[:, None] * 10_000 ** (-torch.arange(HEAD_DIM // 2) / 8)
    return LayerParts(
        index=index,
        weights=LayerWeights(
            input_norm=factors(4),
            qkv=linear((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN),
            head_norm=heads,
            o=linear(HIDDEN, HEADS * HEAD_DIM),
            post_attention_norm=factors(5),
            mlp=MLPWeights(
                gate_up=linear(2 * INTERMEDIATE, HIDDEN), down=linear(HIDDEN, INTERMEDIATE)
            ),
        ),
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        eps=1e-6,
        attention=AttentionParams(scale=HEAD_DIM**-0.5),
        cos_sin=torch.cat((angles.cos(), angles.sin()), dim=1).to(device),
    )


def context_of(device: torch.device, tokens: int) -> ForwardContext:
    """One request of so many decodes, each at its own position: request r has r + 1 tokens.

    The last token is padding: its keys are not written.
    """
    spec = KVSpec(num_kv_heads=KV_HEADS, head_dim=HEAD_DIM, dtype=DTYPE)
    layout = KVLayout(block_size=16)
    buffer = torch.zeros(
        (tokens + 1) * layout.block_bytes(spec, 2), dtype=torch.uint8, device=device
    )
    pool = KVPool.carve(buffer, spec, layout, 2, tokens + 1)
    for cache in (*pool.keys, *pool.values):
        cache.copy_(random(device, *cache.shape))
    lengths = list(range(1, tokens + 1))
    slots = [16 * (row + 1) + row for row in range(tokens)]
    batch = AttentionBatch(
        cu_seqlens_q=torch.arange(tokens + 1, dtype=torch.int32, device=device),
        seq_lens=torch.tensor(lengths, dtype=torch.int32, device=device),
        block_table=torch.arange(1, tokens + 1, dtype=torch.int32, device=device)[:, None],
        slot_mapping=torch.tensor([*slots[:-1], -1], device=device),
        num_decodes=tokens,
        max_query_len=1,
        max_seq_len=tokens,
        cu_seqlens_q_cpu=list(range(tokens + 1)),
        seq_lens_cpu=lengths,
    )
    attention = TorchAttention()
    return ForwardContext(attention, pool, attention.plan(batch, pool), batch.slot_mapping)


def never(
    hidden: torch.Tensor, positions: torch.Tensor, context: ForwardContext
) -> tuple[torch.Tensor, torch.Tensor]:
    raise AssertionError("a step of few tokens is fused")


@pytest.mark.parametrize("tokens", [1, 2])
@pytest.mark.parametrize(("biased", "normed"), [(False, True), (True, False)])
def test_fused_layers_equal_their_ops(
    tuning: TritonTuning, device: torch.device, tokens: int, biased: bool, normed: bool
) -> None:
    layers = [parts(tuning, index, biased=biased, normed=normed) for index in range(2)]
    embedded = random(device, tokens, HIDDEN)
    positions = torch.arange(tokens, device=device)

    context = context_of(device, tokens)
    first, second = (DecoderLayer(layer, OPS) for layer in layers)
    between = first(embedded, None, positions, context)
    expected = (*second(*between, positions, context), *context.pool.keys, *context.pool.values)

    context = context_of(device, tokens)
    fused = fuse_layers(layers, never, OPS, tuning)
    assert isinstance(fused, FusedLayers)
    got = (
        *fused(embedded.clone(), positions, context),
        *context.pool.keys,
        *context.pool.values,
    )
    assert expected[0].isfinite().all()
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


def test_more_tokens_are_handed_to_the_ops(tuning: TritonTuning, device: torch.device) -> None:
    calls = []

    def by_ops(
        hidden: torch.Tensor, positions: torch.Tensor, context: ForwardContext
    ) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(hidden))
        return hidden, hidden

    fused = fuse_layers([parts(tuning, 0, biased=False, normed=False)], by_ops, OPS, tuning)
    assert isinstance(fused, FusedLayers)
    tokens = fused.most_tokens + 1
    for count in (tokens, 0):
        hidden = random(device, count, HIDDEN)
        result = fused(hidden, torch.arange(count, device=device), context_of(device, tokens))
        assert result == (hidden, hidden)
    assert calls == [tokens, 0]


def test_other_weights_are_not_fused(tuning: TritonTuning, device: torch.device) -> None:
    layer = parts(tuning, 0, biased=False, normed=False)
    other = Linear(DenseWeight(random(device, HIDDEN, HEADS * HEAD_DIM)))
    mixed = dataclasses.replace(layer, weights=dataclasses.replace(layer.weights, o=other))
    assert fuse_layers([layer, mixed], never, OPS, tuning) is None
    assert fuse_layers([], never, OPS, tuning) is None
