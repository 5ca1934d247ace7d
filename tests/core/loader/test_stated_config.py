"""Configurations read as they stand mean what transformers makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from windlass import demo_model
from windlass.loader.stated_config import stated_config
from windlass.models.registry import decoder_config

PUBLISHED_QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
LLAMA3_SCALING = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
SAVED = {
    "LlamaForCausalLM": LlamaConfig(attention_bias=True, head_dim=64),
    "MistralForCausalLM": MistralConfig(sliding_window=512),
    "Qwen2ForCausalLM": Qwen2Config(tie_word_embeddings=True),
    "Qwen3ForCausalLM": Qwen3Config(head_dim=256, rope_parameters={"rope_theta": 5e6}),
}


def both(folder: Path, architecture: str) -> tuple[Any, Any]:
    """What the file means as it stands, and by way of transformers."""
    stated = stated_config(json.loads((folder / "config.json").read_text()))
    assert stated is not None
    theirs = AutoConfig.from_pretrained(folder)
    assert stated.eos_token_id == theirs.eos_token_id
    assert str(stated.dtype) == str(theirs.dtype).removeprefix("torch.")
    return decoder_config(architecture, stated), decoder_config(architecture, theirs)


@pytest.mark.parametrize(("architecture", "config"), SAVED.items(), ids=list(SAVED))
def test_a_saved_configuration_means_the_same(
    architecture: str, config: PreTrainedConfig, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    ours, theirs = both(tmp_path, architecture)
    assert ours == theirs


def test_a_published_file_of_an_older_form_means_the_same(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED_QWEN3))
    ours, theirs = both(tmp_path, "Qwen3ForCausalLM")
    assert ours == theirs


def test_llama_3_scaling_of_an_older_file_means_the_same(tmp_path: Path) -> None:
    published = PUBLISHED_QWEN3 | {"model_type": "llama", "mlp_bias": False}
    published |= {"rope_theta": 500000.0, "rope_scaling": LLAMA3_SCALING}
    (tmp_path / "config.json").write_text(json.dumps(published))
    ours, theirs = both(tmp_path, "LlamaForCausalLM")
    assert replace(ours, rope=theirs.rope) == theirs
    assert ours.rope.inv_freq == pytest.approx(theirs.rope.inv_freq, rel=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "gemma3"},
        {"hidden_size": "wide"},
        {"num_attention_heads": 5},
        {"num_key_value_heads": None},
        {"head_dim": None},
        {"attention_bias": None},
        {"tie_word_embeddings": "yes"},
        {"rms_norm_eps": None},
        {"use_sliding_window": True},
        {"layer_types": ["sliding_attention"] * 28},
        {"rope_theta": None},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"rope_scaling": {k: v for k, v in LLAMA3_SCALING.items() if k != "factor"}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
        {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
        {"partial_rotary_factor": 0.5},
        {"quantization_config": {"quant_method": "gptq"}},
        {"auto_map": {"AutoConfig": "own.OwnConfig"}},
    ],
)
def test_whatever_needs_interpretation_is_left_to_transformers(changes: dict[str, Any]) -> None:
    assert stated_config(PUBLISHED_QWEN3) is not None
    assert stated_config(PUBLISHED_QWEN3 | changes) is None


def test_a_model_is_loaded_without_transformers() -> None:
    code = """
import sys
from windlass.config import BackendConfig, ModelConfig
from windlass.loader import load_decoder
from windlass.plugin import create_backend
load_decoder(ModelConfig(model=sys.argv[1]), create_backend(BackendConfig(backend="cpu")))
print("transformers" in sys.modules)
"""
    arguments = [sys.executable, "-c", code, str(demo_model.path())]
    output = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    assert output.strip() == "False"
