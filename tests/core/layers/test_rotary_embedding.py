"""The rotary table against transformers' own, for every kind of scaling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from windlass.layers.rotary_embedding import cos_sin_table
from windlass.models.registry import decoder_config


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 10000.0},
        {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        {
            "rope_type": "yarn",
            "rope_theta": 1000000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32768,
        },
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_the_table_holds_the_cosines_and_sines_of_transformers(rope: dict[str, Any]) -> None:
    hf_config = LlamaConfig(max_position_embeddings=32768, rope_parameters=rope)
    config = decoder_config("LlamaForCausalLM", hf_config).rope
    table = cos_sin_table(config.inv_freq, config.attention_scaling, 300, torch.device("cpu"))

    positions = torch.arange(300)[None]
    cos, sin = LlamaRotaryEmbedding(hf_config)(torch.zeros(1), positions)
    assert table.dtype == torch.float32
    assert torch.equal(table[:, :64], cos[0, :, :64])
    assert torch.equal(table[:, 64:], sin[0, :, :64])
