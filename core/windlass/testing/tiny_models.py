"""Small models of every family that the core runs, with random weights, as transformers knows them.

Importing this imports transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

VOCABULARY = 512
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": None,
}
_FAMILIES: dict[str, tuple[Callable[..., PreTrainedConfig], dict[str, Any]]] = {
    "llama2": (LlamaConfig, {"num_key_value_heads": 4}),
    "llama3": (LlamaConfig, {"rope_parameters": _LLAMA3_ROPE, "tie_word_embeddings": True}),
    "mistral": (MistralConfig, {"sliding_window": 48}),
    "qwen2": (Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, {"head_dim": 32}),
    "mixtral": (MixtralConfig, {"num_local_experts": 6}),
    "qwen3_moe": (
        Qwen3MoeConfig,
        {
            "num_hidden_layers": 3,
            "head_dim": 32,
            "moe_intermediate_size": 48,
            "num_experts": 16,
            "num_experts_per_tok": 4,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
        },
    ),
}
FAMILIES = tuple(_FAMILIES)


def write_tiny_model(family: str, folder: Path, **changes: object) -> PreTrainedModel:
    """Save a model of the family into `folder`, and return it in float32, ready to run.

    `changes` are fields of its configuration. The weights are the same every time, are large
    enough that no two tokens are nearly as probable, and are numbers of bfloat16: whatever number
    format they are loaded in, they are these.
    """
    make_config, fields = _FAMILIES[family]
    generator = torch.Generator().manual_seed(0)
    config = make_config(**{**_SMALL, **fields, **changes})
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        mean = 1.0 if name.endswith("norm.weight") else 0.0
        numbers = torch.randn(parameter.shape, generator=generator) * 0.15 + mean
        parameter.data.copy_(numbers.bfloat16())
    model.save_pretrained(folder)
    return model.eval()
