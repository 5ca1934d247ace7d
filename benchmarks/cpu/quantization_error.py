"""What rounding costs: the logits of a quantised model beside those of bf16, by type of layer.

Each line rounds the layers of one type and leaves the others in bf16; "all" is what
`--quantization` does. See docs/quantization.md for how to read it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from rich.console import Console

from windlass import LLM, SamplingParams, demo_model
from windlass.backend import (
    AttentionBatch,
    Backend,
    ForwardContext,
    KVPool,
    KVSpec,
    LayerWeights,
    Linear,
)
from windlass.config import BackendConfig, Quantization
from windlass.loader.checkpoint import Checkpoint, TensorSource
from windlass.loader.dummy import DummyTensors
from windlass.loader.hf_config import read_hf_config
from windlass.loader.location import resolve_model
from windlass.loader.weights import read_weights
from windlass.models.config import DecoderConfig
from windlass.models.decoder import Decoder
from windlass.models.registry import decoder_config
from windlass.models.weights import DecoderWeights
from windlass.plugin import create_backend
from windlass.text import Tokenizer

LAYER_TYPES = ("qkv", "o", "gate_up", "down", "lm_head")
MLP_TYPES = ("gate_up", "down")
FORMATS: tuple[Quantization, ...] = get_args(Quantization)
QUESTIONS = (
    "What is Windlass?",
    "Who are you?",
    "What is PagedAttention?",
    "How do I start the server?",
    "Count from 3 to 7.",
    "Which day comes after Monday?",
    "What is the capital of France?",
    "Tell me a story about a fox.",
)
RANDOM_MODEL = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 32768,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "eos_token_id": 1,
}

Sequences = list[list[int]]


@dataclass(frozen=True)
class Result:
    """How far the logits of one rounding lie from bf16's, over all tokens.

    `relative_error` is the root mean square of the difference over that of the logits;
    `divergence` the mean Kullback-Leibler divergence from bf16's distribution, in nats;
    `agreement` the share of tokens after which the most probable one is the same.
    """

    layers: str
    quantization: Quantization
    relative_error: float
    divergence: float
    agreement: float


def main() -> None:
    args = parse_arguments()
    console = Console(width=120)
    sequences = read_sequences(args)
    backend = create_backend(BackendConfig(backend=args.backend))
    config, weights = load(args.model, backend)
    exact = logits(Decoder(config, weights, backend), backend, sequences)
    millions = config.num_parameters / 1e6
    console.print(f"{args.model}: {millions:.0f}M parameters, {len(exact)} tokens\n")
    console.print("| format | layers | logit error | KL, nats | top-1 agreement |")
    console.print("|---|---|---|---|---|")
    results = []
    for quantization in FORMATS:
        for name, changed in cases(weights, backend, quantization):
            found = logits(Decoder(config, changed, backend), backend, sequences)
            results.append(compare(name, quantization, exact, found))
            console.print(markdown_row(results[-1]), highlight=False)
    if args.output:
        Path(args.output).write_text(json.dumps([asdict(r) for r in results], indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "model",
        nargs="?",
        default="demo",
        help="demo, random (four layers of Qwen3-0.6B's shape), or a model of yours",
    )
    parser.add_argument("--text", metavar="FILE", help="what a model of yours reads")
    parser.add_argument("--tokens", type=int, default=512, help="of the text, or random ones")
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--output", metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()
    if args.model not in ("demo", "random") and not args.text:
        parser.error("a model of yours needs --text FILE")
    return args


def read_sequences(args: argparse.Namespace) -> Sequences:
    """What the model reads: the demo model's own answers, random tokens, or a text."""
    if args.model == "demo":
        with LLM(dtype="bfloat16", backend=args.backend, num_blocks=512) as llm:
            talks = [[{"role": "user", "content": question}] for question in QUESTIONS]
            answers = llm.chat(talks, SamplingParams(temperature=0, max_tokens=320))
        return [[*a.prompt_token_ids, *a.outputs[0].token_ids] for a in answers]
    if args.model == "random":
        generator = torch.Generator().manual_seed(0)
        vocab_size = int(str(RANDOM_MODEL["vocab_size"]))
        return [torch.randint(vocab_size, (args.tokens,), generator=generator).tolist()]
    return [Tokenizer.load(args.model).encode(Path(args.text).read_text())[: args.tokens]]


def load(model: str, backend: Backend) -> tuple[DecoderConfig, DecoderWeights]:
    if model == "random":
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(RANDOM_MODEL))
            config = decoder_config(*read_hf_config(Path(folder)))
        return config, read(DummyTensors(0, config.initializer_range), config, backend)
    folder_path = demo_model.path() if model == "demo" else resolve_model(model, None)
    config = decoder_config(*read_hf_config(folder_path))
    with Checkpoint(folder_path) as checkpoint:
        return config, read(checkpoint, config, backend)


def read(source: TensorSource, config: DecoderConfig, backend: Backend) -> DecoderWeights:
    return read_weights(source, config, backend, torch.bfloat16, None, lambda share: None)


def cases(
    weights: DecoderWeights, backend: Backend, quantization: Quantization
) -> Iterator[tuple[str, DecoderWeights]]:
    """The name of each case and its weights; "all" are those that the loader makes."""
    pack = partial(rounded, backend=backend)
    layers = [
        {
            name: pack(getattr(layer.mlp if name in MLP_TYPES else layer, name), quantization)
            for name in LAYER_TYPES[:-1]
        }
        for layer in weights.layers
    ]
    for name in LAYER_TYPES[:-1]:
        yield name, with_layers(weights, [{name: layer[name]} for layer in layers])
    yield "lm_head", replace(weights, lm_head=pack(weights.lm_head, quantization))
    everything = with_layers(weights, layers)
    yield "all", replace(everything, lm_head=pack(weights.lm_head, "int8"))


def rounded(linear: Linear, quantization: Quantization, backend: Backend) -> Linear:
    # A packed weight gives itself back as its product with unit vectors, exactly.
    unit = torch.eye(linear.weight.in_features, dtype=torch.bfloat16)
    weight = linear.weight.apply(unit).T.contiguous()
    return Linear(backend.ops.pack_weight(weight, quantization), linear.bias)


def with_layers(weights: DecoderWeights, changes: Sequence[dict[str, Any]]) -> DecoderWeights:
    pairs = zip(weights.layers, changes, strict=True)
    return replace(weights, layers=tuple(with_linears(*pair) for pair in pairs))


def with_linears(layer: LayerWeights, change: dict[str, Any]) -> LayerWeights:
    mlp = {name: linear for name, linear in change.items() if name in MLP_TYPES}
    others = {name: linear for name, linear in change.items() if name not in MLP_TYPES}
    return replace(layer, mlp=replace(layer.mlp, **mlp), **others)


@torch.inference_mode()
def logits(decoder: Decoder, backend: Backend, sequences: Sequences) -> torch.Tensor:
    """Float32 logits `[T, V]` after every token of every sequence."""
    config = decoder.config
    spec = KVSpec(num_kv_heads=config.num_kv_heads, head_dim=config.head_dim, dtype=torch.bfloat16)
    layout = backend.kv_layouts(spec)[0]
    size = layout.block_size
    blocks = 1 + -(-max(map(len, sequences)) // size)
    buffer = backend.allocator.reserve(
        blocks * layout.block_bytes(spec, config.num_layers), align=layout.align, tag="logits"
    )
    pool = KVPool.carve(buffer, spec, layout, config.num_layers, blocks)
    found = [sequence_logits(decoder, backend, pool, tokens) for tokens in sequences]
    backend.allocator.release("logits")
    return torch.cat(found)


def sequence_logits(
    decoder: Decoder, backend: Backend, pool: KVPool, tokens: list[int]
) -> torch.Tensor:
    count = len(tokens)
    positions = torch.arange(count)
    batch = AttentionBatch(
        cu_seqlens_q=torch.tensor([0, count], dtype=torch.int32),
        seq_lens=torch.tensor([count], dtype=torch.int32),
        block_table=torch.arange(1, pool.num_blocks, dtype=torch.int32)[None],
        slot_mapping=(positions + pool.block_size).to(pool.layout.slot_dtype),
        num_decodes=0,
        max_query_len=count,
        max_seq_len=count,
        cu_seqlens_q_cpu=[0, count],
        seq_lens_cpu=[count],
    )
    attention = backend.attention
    context = ForwardContext(attention, pool, attention.plan(batch, pool), batch.slot_mapping)
    hidden = decoder.forward(torch.tensor(tokens), positions, context)
    return decoder.logits(hidden)


def compare(
    layers: str, quantization: Quantization, exact: torch.Tensor, found: torch.Tensor
) -> Result:
    expected, logprobs = exact.log_softmax(-1), found.log_softmax(-1)
    return Result(
        layers=layers,
        quantization=quantization,
        relative_error=float((found - exact).norm() / exact.norm()),
        divergence=float((expected.exp() * (expected - logprobs)).sum(-1).mean()),
        agreement=float((exact.argmax(-1) == found.argmax(-1)).float().mean()),
    )


def markdown_row(result: Result) -> str:
    return (
        f"| {result.quantization} | {result.layers} | {result.relative_error:.1%} "
        f"| {result.divergence:.4f} | {result.agreement:.1%} |"
    )


if __name__ == "__main__":
    main()
