"""What rounding costs: the logits of a quantised model beside those of bf16, by type of layer.

Each line rounds the layers of one type and leaves the others in bf16; "all" is what
`--quantization` does. See docs/quantization.md for how to read it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console

from windlass import LLM, SamplingParams, demo_model
from windlass.backend import AttentionBatch, Backend, KVPool, KVSpec
from windlass.config import BackendConfig, ModelConfig, Quantization
from windlass.layers.context import ForwardContext
from windlass.layers.linear import Linear
from windlass.loader import LoadedModel, load_decoder
from windlass.models.decoder import Decoder
from windlass.plugin import create_backend
from windlass.text import Tokenizer

LAYER_TYPES = ("qkv", "o", "gate_up", "down", "lm_head")
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
LinearsByType = dict[str, list[Linear]]


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
    loaded = load(args.model, backend)
    exact = logits(loaded, backend, sequences)
    millions = loaded.num_parameters / 1e6
    console.print(f"{args.model}: {millions:.0f}M parameters, {len(exact)} tokens\n")
    console.print("| format | layers | logit error | KL, nats | top-1 agreement |")
    console.print("|---|---|---|---|---|")
    results = []
    for quantization in FORMATS:
        for name, rounded in cases(loaded.decoder, backend, quantization).items():
            before = replace(loaded.decoder, rounded)
            found = logits(loaded, backend, sequences)
            replace(loaded.decoder, before)
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


def load(model: str, backend: Backend) -> LoadedModel:
    if model == "random":
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(RANDOM_MODEL))
            config = ModelConfig(model=folder, load_format="dummy", dtype="bfloat16")
            return load_decoder(config, backend)
    folder = str(demo_model.path()) if model == "demo" else model
    return load_decoder(ModelConfig(model=folder, dtype="bfloat16"), backend)


def cases(
    decoder: Decoder, backend: Backend, quantization: Quantization
) -> dict[str, LinearsByType]:
    """Rounded layers by name of the case; "all" is what the loader makes."""
    rounded = {name: round_layers(decoder, backend, name, quantization) for name in LAYER_TYPES}
    alone = {name: {name: linears} for name, linears in rounded.items()}
    served = rounded | {"lm_head": round_layers(decoder, backend, "lm_head", "int8")}
    return alone | {"all": served}


def round_layers(
    decoder: Decoder, backend: Backend, name: str, quantization: Quantization
) -> list[Linear]:
    linears = []
    for owner in owners(decoder, name):
        linear: Linear = getattr(owner, name)
        # A packed weight gives itself back as its product with unit vectors, exactly.
        unit = torch.eye(linear.weight.in_features, dtype=torch.bfloat16)
        weight = linear.weight.apply(unit).T.contiguous()
        linears.append(Linear(backend.ops.pack_weight(weight, quantization), linear.bias))
    return linears


def owners(decoder: Decoder, name: str) -> list[object]:
    """The objects whose attribute `name` is a linear layer of that type."""
    if name == "lm_head":
        return [decoder]
    part = "attention" if name in ("qkv", "o") else "mlp"
    return [getattr(layer, part) for layer in decoder.layers]


def replace(decoder: Decoder, linears: LinearsByType) -> LinearsByType:
    """Put these layers in place; returns those that stood there."""
    before: LinearsByType = {}
    for name, ours in linears.items():
        places = owners(decoder, name)
        before[name] = [getattr(owner, name) for owner in places]
        for owner, linear in zip(places, ours, strict=True):
            setattr(owner, name, linear)
    return before


@torch.inference_mode()
def logits(loaded: LoadedModel, backend: Backend, sequences: Sequences) -> torch.Tensor:
    """Float32 logits `[T, V]` after every token of every sequence."""
    config = loaded.decoder_config
    spec = KVSpec(num_kv_heads=config.num_kv_heads, head_dim=config.head_dim, dtype=loaded.dtype)
    layout = backend.kv_layouts(spec)[0]
    size = layout.block_size
    blocks = 1 + -(-max(map(len, sequences)) // size)
    buffer = backend.allocator.reserve(
        blocks * layout.block_bytes(spec, config.num_layers), align=layout.align, tag="logits"
    )
    pool = KVPool.carve(buffer, spec, layout, config.num_layers, blocks)
    found = [sequence_logits(loaded, backend, pool, tokens) for tokens in sequences]
    backend.allocator.release("logits")
    return torch.cat(found)


def sequence_logits(
    loaded: LoadedModel, backend: Backend, pool: KVPool, tokens: list[int]
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
    hidden = loaded.decoder.forward(torch.tensor(tokens), positions, context)
    return loaded.decoder.logits(hidden)


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
