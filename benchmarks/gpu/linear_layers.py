"""A whole stack of decoder layers in one graph: op by op, fused, and fused with overlap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from windlass.backend import (
    AttentionBatch,
    AttentionParams,
    BackendConfig,
    DenseWeight,
    ForwardContext,
    HeadNorm,
    KVPool,
    KVSpec,
    LayerParts,
    LayersFunction,
    LayerWeights,
    Linear,
    MLPWeights,
    PackedWeight,
)
from windlass.layers.decoder_layer import DecoderLayer
from windlass_cuda import layers as fused_layers
from windlass_cuda import linear_tuning
from windlass_cuda.backend import CudaBackend
from windlass_cuda.linear import GpuWeight
from windlass_cuda.plugin import SPEC, windlass_op_providers

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, LAYERS = 1024, 16, 8, 128, 3072, 28
CONTEXT = 512
DTYPE = torch.bfloat16

Pack = Callable[[torch.Tensor], PackedWeight]


def measure_layers(arch: str, multiprocessors: int) -> list[dict[str, Any]]:
    """Microseconds of 28 layers of Qwen3-0.6B's shape for one and four tokens, printed too."""
    providers = windlass_op_providers("cuda", arch)
    backend = CudaBackend(SPEC, BackendConfig(), arch=arch, op_providers=providers)

    def ours(weight: torch.Tensor) -> GpuWeight:
        return GpuWeight(weight, arch, multiprocessors)

    dense, packed = stack(DenseWeight), stack(ours)
    found = []
    for tokens in (1, 4):
        context = step_of(backend, tokens)
        ways: dict[str, Callable[[], LayersFunction | None]] = {
            "ops, library": lambda: by_ops(dense, backend),
            "ops, ours": lambda: by_ops(packed, backend),
            "fused": lambda: fused_layers.fuse_layers(
                packed, by_ops(packed, backend), backend.ops, arch
            ),
            "fused, without overlap in linears": lambda: without_overlap(packed, backend, arch),
        }
        reference = None
        for name, make in ways.items():
            try:
                run = make()
                if run is None:
                    continue
                time, output = measure(run, context, tokens)
            except Exception as error:  # noqa: BLE001 - one way that fails stops no other
                print(f"layers x{tokens} {name}: {type(error).__name__}: {str(error)[:400]}")
                continue
            reference = output if reference is None else reference
            error_norm = float((output - reference).norm() / reference.norm())
            print(
                f"{LAYERS} layers x{tokens} {name:>34}: {time:8.1f} us, {time / LAYERS:6.2f} each,"
                f" differs by {error_norm:.1e}",
                flush=True,
            )
            found.append({"tokens": tokens, "way": name, "us": time, "differs": error_norm})
    return found


def stack(pack: Pack) -> list[LayerParts]:
    """Layers with random weights that keep the stream's size."""
    generator = torch.Generator("cuda").manual_seed(0)

    def linear(outputs: int, inputs: int) -> Linear:
        weight = torch.randn(outputs, inputs, generator=generator, device="cuda") * inputs**-0.5
        return Linear(pack(weight.to(DTYPE)))

    ones = torch.ones(HIDDEN, device="cuda", dtype=DTYPE)
    heads = torch.ones(HEAD_DIM, device="cuda", dtype=DTYPE)
    angles = torch.arange(CONTEXT + 8)[:, None] * 1e6 ** (-torch.arange(HEAD_DIM // 2) / 64)
    cos_sin = torch.cat((angles.cos(), angles.sin()), dim=1).cuda()
    return [
        LayerParts(
            index=index,
            weights=LayerWeights(
                input_norm=ones,
                qkv=linear((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN),
                head_norm=HeadNorm(heads, heads, 1e-6),
                o=linear(HIDDEN, HEADS * HEAD_DIM),
                post_attention_norm=ones,
                mlp=MLPWeights(
                    gate_up=linear(2 * INTERMEDIATE, HIDDEN), down=linear(HIDDEN, INTERMEDIATE)
                ),
            ),
            num_heads=HEADS,
            num_kv_heads=KV_HEADS,
            head_dim=HEAD_DIM,
            eps=1e-6,
            attention=AttentionParams(scale=HEAD_DIM**-0.5),
            cos_sin=cos_sin,
        )
        for index in range(LAYERS)
    ]


def step_of(backend: CudaBackend, tokens: int) -> ForwardContext:
    """So many decodes over a full context each."""
    spec = KVSpec(num_kv_heads=KV_HEADS, head_dim=HEAD_DIM, dtype=DTYPE)
    layout = backend.kv_layouts(spec)[0]
    blocks = CONTEXT // layout.block_size + 1
    count = tokens * blocks + 1
    buffer = torch.zeros(count * layout.block_bytes(spec, LAYERS), dtype=torch.uint8, device="cuda")
    pool = KVPool.carve(buffer, spec, layout, LAYERS, count)
    table = torch.arange(1, count, dtype=torch.int32, device="cuda").view(tokens, blocks)
    slots = table[:, CONTEXT // layout.block_size].to(layout.slot_dtype) * layout.block_size
    batch = AttentionBatch(
        cu_seqlens_q=torch.arange(tokens + 1, dtype=torch.int32, device="cuda"),
        seq_lens=torch.full((tokens,), CONTEXT + 1, dtype=torch.int32, device="cuda"),
        block_table=table,
        slot_mapping=slots,
        num_decodes=tokens,
        max_query_len=1,
        max_seq_len=CONTEXT + 1,
        cu_seqlens_q_cpu=list(range(tokens + 1)),
        seq_lens_cpu=[CONTEXT + 1] * tokens,
    )
    plan = backend.attention.plan(batch, pool, capture=True)
    return ForwardContext(backend.attention, pool, plan, slots)


def by_ops(parts: list[LayerParts], backend: CudaBackend) -> LayersFunction:
    """The layers one op after the other, as the decoder runs them."""
    layers = [DecoderLayer(part, backend.ops) for part in parts]

    def run(
        hidden: torch.Tensor, positions: torch.Tensor, context: ForwardContext
    ) -> tuple[torch.Tensor, torch.Tensor]:
        residual: torch.Tensor | None = None
        for layer in layers:
            hidden, residual = layer(hidden, residual, positions, context)
        assert residual is not None
        return hidden, residual

    return run


def without_overlap(
    parts: list[LayerParts], backend: CudaBackend, arch: str
) -> LayersFunction | None:
    """The fused layers with tiles that wait for the kernel before them."""
    overlap, linear_tuning.overlap = linear_tuning.overlap, lambda arch: {}
    try:
        linear_tuning.linear_config.cache_clear()
        linear_tuning.fused_config.cache_clear()
        chip = (arch, backend.device.multiprocessors)

        def again(linear: Linear) -> Linear:
            assert isinstance(linear.weight, GpuWeight)
            return Linear(GpuWeight(linear.weight.weight, *chip), linear.bias)

        copied = []
        for part in parts:
            weights = part.weights
            assert isinstance(weights.mlp, MLPWeights)
            mlp = MLPWeights(gate_up=again(weights.mlp.gate_up), down=again(weights.mlp.down))
            weights = replace(weights, qkv=again(weights.qkv), o=again(weights.o), mlp=mlp)
            copied.append(replace(part, weights=weights))
        return fused_layers.fuse_layers(copied, by_ops(copied, backend), backend.ops, arch)
    finally:
        linear_tuning.overlap = overlap
        linear_tuning.linear_config.cache_clear()
        linear_tuning.fused_config.cache_clear()


def measure(
    run: LayersFunction, context: ForwardContext, tokens: int
) -> tuple[float, torch.Tensor]:
    """Microseconds of a replay, the best of ten groups, and the last layer's output."""
    generator = torch.Generator("cuda").manual_seed(1)
    hidden = torch.randn(tokens, HIDDEN, generator=generator, device="cuda").to(DTYPE)
    positions = torch.full((tokens,), CONTEXT, dtype=torch.int64, device="cuda")

    def step() -> torch.Tensor:
        context.attention.plan_in_graph(context.plan)
        output, residual = run(hidden.clone(), positions, context)
        return (output + residual).float()

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = step()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        start.record()
        for _ in range(10):
            graph.replay()
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) * 100)
    result = output.clone()
    graph.reset()
    return best, result
