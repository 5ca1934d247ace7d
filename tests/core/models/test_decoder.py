"""The decoder against transformers: same weights, same logits, however the tokens are cut."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from windlass.backend import Backend
from windlass.config import ModelConfig
from windlass.loader import LoadedModel, load_decoder

VOCAB = 199
TOLERANCE = 1e-4

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1000000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
MIXED_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]


def small(kind: type[PreTrainedConfig], **changes: Any) -> PreTrainedConfig:
    """A configuration with its real settings, and the sizes of a toy."""
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    return kind(**(sizes | changes))


CASES = {
    "llama-2": small(LlamaConfig, num_key_value_heads=8, rms_norm_eps=1e-5),
    "llama-3.1": small(LlamaConfig, rope_parameters=LLAMA3_ROPE, rms_norm_eps=1e-5),
    "llama-3.2-tied": small(LlamaConfig, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True),
    "llama-linear": small(LlamaConfig, rope_parameters=LINEAR_ROPE),
    "llama-yarn": small(LlamaConfig, rope_parameters=YARN_ROPE),
    "llama-every-bias": small(LlamaConfig, attention_bias=True, mlp_bias=True),
    "mistral-window": small(MistralConfig, sliding_window=11),
    "mistral-wide-heads": small(MistralConfig, sliding_window=None, head_dim=16),
    "qwen2": small(Qwen2Config, hidden_size=128),
    "qwen2-tied-yarn": small(Qwen2Config, tie_word_embeddings=True, rope_parameters=YARN_ROPE),
    "qwen2-window": small(
        Qwen2Config, use_sliding_window=True, sliding_window=9, max_window_layers=1
    ),
    "qwen3": small(Qwen3Config, head_dim=32),
    "qwen3-tied": small(Qwen3Config, head_dim=16, tie_word_embeddings=True),
    "qwen3-mixed-layers": small(
        Qwen3Config,
        head_dim=16,
        use_sliding_window=True,
        sliding_window=7,
        layer_types=MIXED_LAYERS,
        attention_bias=True,
    ),
    "mixtral": small(MixtralConfig, num_local_experts=5, sliding_window=None),
    "mixtral-window": small(MixtralConfig, num_local_experts=4, sliding_window=9),
    "qwen3-moe": small(
        Qwen3MoeConfig,
        head_dim=16,
        moe_intermediate_size=40,
        num_experts=12,
        num_experts_per_tok=3,
        norm_topk_prob=True,
    ),
    "qwen3-moe-mixed-layers": small(
        Qwen3MoeConfig,
        num_hidden_layers=4,
        head_dim=16,
        moe_intermediate_size=40,
        num_experts=6,
        num_experts_per_tok=6,
        decoder_sparse_step=2,
        mlp_only_layers=[3],
        attention_bias=True,
    ),
}
LENGTHS = (1, 40, 73, 17)


def prompts(lengths: tuple[int, ...] = LENGTHS, seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCAB, (n,), generator=generator).tolist() for n in lengths]


def distance(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Largest absolute difference of any logit."""
    return max(float((f - e).abs().max()) for f, e in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def checkpoints(save_model: Callable[..., Path]) -> Callable[[str], Path]:
    saved: dict[str, Path] = {}

    def folder(case: str) -> Path:
        if case not in saved:
            saved[case] = save_model(CASES[case])
        return saved[case]

    return folder


@pytest.fixture(params=CASES)
def folder(request: pytest.FixtureRequest, checkpoints: Callable[[str], Path]) -> Path:
    return checkpoints(request.param)


def load(folder: Path, backend: Backend, dtype: Any = "float32") -> LoadedModel:
    return load_decoder(ModelConfig(model=str(folder), dtype=dtype), backend)


def test_whole_prompts_in_one_batch_give_the_logits_of_transformers(
    folder: Path,
    backend: Backend,
    paged_logits: Callable[..., list[torch.Tensor]],
    transformers_logits: Callable[..., list[torch.Tensor]],
) -> None:
    sequences = prompts()
    found = paged_logits(load(folder, backend), sequences, [[len(s)] for s in sequences])
    far = distance(found, transformers_logits(folder, sequences))
    print(f"largest distance of a logit: {far:.2e}")
    assert far < TOLERANCE


def test_chunks_and_single_tokens_through_the_cache_give_the_logits_of_transformers(
    folder: Path,
    backend: Backend,
    paged_logits: Callable[..., list[torch.Tensor]],
    transformers_logits: Callable[..., list[torch.Tensor]],
) -> None:
    sequences = prompts()
    chunks = [[1], [1] * 40, [16, 16, 1, 30, *[1] * 10], [17]]
    found = paged_logits(load(folder, backend), sequences, chunks, block_size=8)
    far = distance(found, transformers_logits(folder, sequences))
    print(f"largest distance of a logit: {far:.2e}")
    assert far < TOLERANCE


@st.composite
def cut_sequences(draw: st.DrawFn) -> list[list[int]]:
    """Chunk lengths of two sequences of 40 and 17 tokens."""
    chunks = []
    for length in (40, 17):
        cuts = draw(st.sets(st.integers(1, length - 1), max_size=length - 1))
        bounds = [0, *sorted(cuts), length]
        chunks.append([b - a for a, b in pairwise(bounds)])
    return chunks


@pytest.mark.parametrize("case", ["llama-3.1", "mistral-window", "qwen3-mixed-layers"])
def test_logits_do_not_depend_on_chunks_block_size_or_block_order(
    case: str,
    checkpoints: Callable[[str], Path],
    backend: Backend,
    paged_logits: Callable[..., list[torch.Tensor]],
    transformers_logits: Callable[..., list[torch.Tensor]],
) -> None:
    loaded = load(checkpoints(case), backend)
    sequences = prompts((40, 17))
    expected = transformers_logits(checkpoints(case), sequences)

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        chunks=cut_sequences(), block_size=st.sampled_from([1, 2, 5, 16]), seed=st.integers(0, 99)
    )
    def check(chunks: list[list[int]], block_size: int, seed: int) -> None:
        found = paged_logits(loaded, sequences, chunks, block_size=block_size, seed=seed)
        assert distance(found, expected) < TOLERANCE

    check()


# A rounding may send a token to another expert; not where every token goes to all of them.
@pytest.mark.parametrize(
    "case", ["llama-3.1", "mistral-window", "qwen2", "qwen3", "qwen3-moe-mixed-layers"]
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_as_close_to_float32_as_transformers_is(
    case: str,
    dtype: str,
    checkpoints: Callable[[str], Path],
    backend: Backend,
    paged_logits: Callable[..., list[torch.Tensor]],
    transformers_logits: Callable[..., list[torch.Tensor]],
) -> None:
    def logprobs(logits: list[torch.Tensor]) -> list[torch.Tensor]:
        return [part.log_softmax(-1) for part in logits]

    folder, sequences = checkpoints(case), prompts()
    exact = logprobs(transformers_logits(folder, sequences))
    theirs = logprobs(transformers_logits(folder, sequences, dtype=getattr(torch, dtype)))
    loaded = load(folder, backend, dtype)
    ours = logprobs(paged_logits(loaded, sequences, [[1], [40], [16, 57], [1] * 17]))

    mean_error = torch.cat([(o - e).abs().mean(-1) for o, e in zip(ours, exact, strict=True)])
    their_error = torch.cat([(t - e).abs().mean(-1) for t, e in zip(theirs, exact, strict=True)])
    print(
        f"log-probability distance to float32, mean and largest: "
        f"{mean_error.mean():.2e} {distance(ours, exact):.2e}, "
        f"transformers {their_error.mean():.2e} {distance(theirs, exact):.2e}"
    )
    assert loaded.dtype == getattr(torch, dtype)
    assert mean_error.mean() < 1.25 * their_error.mean()
    assert distance(ours, exact) < 2 * distance(theirs, exact)


def test_logits_are_float32_whatever_the_weights_are(
    checkpoints: Callable[[str], Path], backend: Backend
) -> None:
    loaded = load(checkpoints("qwen3"), backend, "bfloat16")
    logits = loaded.decoder.logits(torch.ones(2, 64, dtype=torch.bfloat16))
    assert logits.dtype == torch.float32
    assert logits.shape == (2, VOCAB)
