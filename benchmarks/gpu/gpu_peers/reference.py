"""Small seeded models, and what transformers says about sequences of theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from gpu_peers.models import write_tokenizer

VOCAB = 2048
SEED = 20

# Large enough that every layer changes which token comes next.
_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "num_hidden_layers": 3,
    "max_position_embeddings": 2048,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_ROPE_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}


def _llama(heads: int, kv_heads: int, head_dim: int, **others: object) -> object:
    return transformers.LlamaConfig(
        hidden_size=256,
        intermediate_size=704,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        **_COMMON,
        **others,
    )


def _qwen3(heads: int, kv_heads: int, head_dim: int, *, tied: bool) -> object:
    return transformers.Qwen3Config(
        hidden_size=320,
        intermediate_size=640,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        tie_word_embeddings=tied,
        **_COMMON,
    )


def _qwen3_moe() -> object:
    return transformers.Qwen3MoeConfig(
        hidden_size=256,
        intermediate_size=512,
        moe_intermediate_size=192,
        num_experts=16,
        num_experts_per_tok=4,
        norm_topk_prob=True,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        **_COMMON,
    )


MODELS: dict[str, Callable[[], object]] = {
    "llama-64": lambda: _llama(8, 2, 64),
    "llama-128": lambda: _llama(4, 4, 128, rope_parameters=_ROPE_LLAMA3),
    "qwen3-128": lambda: _qwen3(8, 2, 128, tied=True),
    "qwen3-64": lambda: _qwen3(4, 1, 64, tied=False),
    "qwen3-moe": _qwen3_moe,
}


def make_checkpoint(name: str, folder: Path) -> Path:
    """Save the model in fp32; norms differ from one, so that a forgotten one is seen."""
    torch.manual_seed(SEED)
    model = transformers.AutoModelForCausalLM.from_config(MODELS[name](), dtype=torch.float32)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("norm.weight"):
                parameter.normal_(mean=1.0, std=0.2)
    target = folder / name
    model.save_pretrained(target)
    write_tokenizer(target)
    return target


class Reference:
    """The model in transformers, with its plainest attention and experts."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: str) -> None:
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager"
        )
        self._model = self._model.to(device).eval()
        self._device = device

    @torch.inference_mode()
    def logits(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Of the token after each position, `[T, V]` in fp32 on the host."""
        ids = torch.tensor([list(token_ids)], device=self._device)
        logits: torch.Tensor = self._model(ids, use_cache=False).logits[0]
        return logits.float().cpu()
