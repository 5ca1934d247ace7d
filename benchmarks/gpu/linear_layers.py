"""A whole stack of decoder layers in one graph: op by op, fused, and fused with overlap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
from windlass.backend.triton.launch_arguments import LaunchArguments
from windlass.backend.triton.layers import fuse_layers
from windlass.backend.triton.linear import TritonWeight
from windlass.layers.decoder_layer import DecoderLayer
from windlass_cuda.backend import CudaBackend
from windlass_cuda.plugin import SPEC
from windlass_cuda.tuning import CudaTuning

CONTEXT = 512
HEAD_DIM = 128
DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Shape:
    """Layers of a model, or some of them, and the steps to measure by their tokens."""

    name: str
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    layers: int
    normed: bool
    tokens: tuple[int, ...]


SHAPES = (
    Shape("qwen3-0.6b", 1024, 16, 8, 3072, 28, True, (1, 2, 4, 8)),
    Shape("llama-8b", 4096, 32, 8, 14336, 6, False, (1, 2)),
)

Pack = Callable[[torch.Tensor], PackedWeight]


class WithoutOverlap(CudaTuning):
    """Kernels that wait for the one before them."""

    def launch_arguments(self) -> LaunchArguments:
        """None."""
        return {}


def measure_layers(tuning: CudaTuning) -> list[dict[str, Any]]:
    """Microseconds of a step through all layers, by shape, tokens and way; printed too."""
    backend = CudaBackend(SPEC, BackendConfig(), arch=tuning.arch)

    def ours(weight: torch.Tensor) -> TritonWeight:
        return TritonWeight(weight, tuning)

    found = []
    for shape in SHAPES:
        dense, packed = stack(shape, DenseWeight), stack(shape, ours)
        for tokens in shape.tokens:
            context = step_of(shape, backend, tokens)
            ways: dict[str, Callable[[], LayersFunction | None]] = {
                "ops, library": lambda dense=dense: by_ops(dense, backend),
                "ops, ours": lambda packed=packed: by_ops(packed, backend),
                "fused": lambda packed=packed: fuse_layers(
                    packed, by_ops(packed, backend), backend.ops, tuning
                ),
                "fused, linears without overlap": lambda packed=packed: without_overlap(
                    packed, backend, tuning
                ),
            }
            found += compare(shape, tokens, ways, context)
    return found


def compare(
    shape: Shape,
    tokens: int,
    ways: dict[str, Callable[[], LayersFunction | None]],
    context: ForwardContext,
) -> list[dict[str, Any]]:
    """Every way's time, and how far its output is from that of the first."""
    found: list[dict[str, Any]] = []
    reference = None
    for name, make in ways.items():
        try:
            run = make()
            if run is None:
                continue
            time, output = measure(run, context, tokens, shape.hidden)
        except Exception as error:  # noqa: BLE001 - one way that fails stops no other
            print(f"layers x{tokens} {name}: {type(error).__name__}: {str(error)[:400]}")
            continue
        reference = output if reference is None else reference
        differs = float((output - reference).norm() / reference.norm())
        print(
            f"{shape.name}, {shape.layers} layers x{tokens} {name:>31}: {time:8.1f} us,"
            f" {time / shape.layers:6.2f} each, differs by {differs:.1e}",
            flush=True,
        )
        found.append(
            {"shape": shape.name, "tokens": tokens, "way": name, "us": time, "differs": differs}
        )
    return found


def stack(shape: Shape, pack: Pack) -> list[LayerParts]:
    """Layers with random weights that keep the stream's size."""
    generator = torch.Generator("cuda").manual_seed(0)
    hidden, heads, kv_heads = shape.hidden, shape.heads, shape.kv_heads

    def linear(outputs: int, inputs: int) -> Linear:
        weight = torch.randn(outputs, inputs, generator=generator, device="cuda") * inputs**-0.5
        return Linear(pack(weight.to(DTYPE)))

    ones = torch.ones(hidden, device="cuda", dtype=DTYPE)
    head = torch.ones(HEAD_DIM, device="cuda", dtype=DTYPE)
    angles = torch.arange(CONTEXT + 8)[:, None] * 1e6 ** (-torch.arange(HEAD_DIM // 2) / 64)
    cos_sin = torch.cat((angles.cos(), angles.sin()), dim=1).cuda()
    return [
        LayerParts(
            index=index,
            weights=LayerWeights(
                input_norm=ones,
                qkv=linear((heads + 2 * kv_heads) * HEAD_DIM, hidden),
                head_norm=HeadNorm(head, head, 1e-6) if shape.normed else None,
                o=linear(hidden, heads * HEAD_DIM),
                post_attention_norm=ones,
                mlp=MLPWeights(
                    gate_up=linear(2 * shape.intermediate, hidden),
                    down=linear(hidden, shape.intermediate),
                ),
            ),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=HEAD_DIM,
            eps=1e-6,
            attention=AttentionParams(scale=HEAD_DIM**-0.5),
            cos_sin=cos_sin,
        )
        for index in range(shape.layers)
    ]


def step_of(shape: Shape, backend: CudaBackend, tokens: int) -> ForwardContext:
    """So many decodes over a full context each."""
    spec = KVSpec(num_kv_heads=shape.kv_heads, head_dim=HEAD_DIM, dtype=DTYPE)
    layout = backend.kv_layouts(spec)[0]
    blocks = CONTEXT // layout.block_size + 1
    count = tokens * blocks + 1
    size = count * layout.block_bytes(spec, shape.layers)
    buffer = torch.zeros(size, dtype=torch.uint8, device="cuda")
    pool = KVPool.carve(buffer, spec, layout, shape.layers, count)
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
    parts: list[LayerParts], backend: CudaBackend, tuning: CudaTuning
) -> LayersFunction | None:
    """The fused layers with tiles that wait for the kernel before them."""
    waiting = WithoutOverlap(tuning.arch, tuning.units)

    def again(linear: Linear) -> Linear:
        assert isinstance(linear.weight, TritonWeight)
        return Linear(TritonWeight(linear.weight.weight, waiting), linear.bias)

    copied = []
    for part in parts:
        weights = part.weights
        assert isinstance(weights.mlp, MLPWeights)
        mlp = MLPWeights(gate_up=again(weights.mlp.gate_up), down=again(weights.mlp.down))
        weights = replace(weights, qkv=again(weights.qkv), o=again(weights.o), mlp=mlp)
        copied.append(replace(part, weights=weights))
    return fuse_layers(copied, by_ops(copied, backend), backend.ops, waiting)


def measure(
    run: LayersFunction, context: ForwardContext, tokens: int, hidden_size: int
) -> tuple[float, torch.Tensor]:
    """Microseconds of a replay, the best of ten groups, and the last layer's output."""
    generator = torch.Generator("cuda").manual_seed(1)
    hidden = torch.randn(tokens, hidden_size, generator=generator, device="cuda").to(DTYPE)
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
