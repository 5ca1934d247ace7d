"""A backend without plugins, and tiny checkpoints to load and to damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig

from windlass.backend import Backend, TorchBackend
from windlass.config import BackendConfig
from windlass.plugin.spec import BackendSpec


@pytest.fixture
def backend() -> Backend:
    spec = BackendSpec(name="reference", target="", device_type="cpu", priority=1)
    return TorchBackend(spec, BackendConfig())


@pytest.fixture
def llama_config() -> Callable[..., LlamaConfig]:
    def make(**changes: Any) -> LlamaConfig:
        sizes = {
            "vocab_size": 50,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
        }
        return LlamaConfig(**(sizes | changes))

    return make


@pytest.fixture
def save_model(tmp_path: Path) -> Callable[..., Path]:
    """Saves a model with seeded random weights; options go to `save_pretrained`."""

    def save(config: PreTrainedConfig, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
        torch.manual_seed(0)
        folder = tmp_path / "model"
        AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder, **options)
        return folder

    return save


@pytest.fixture
def tiny(save_model: Callable[..., Path], llama_config: Callable[..., LlamaConfig]) -> Path:
    """A float32 Llama in one safetensors file."""
    return save_model(llama_config())


@pytest.fixture
def edit_json() -> Callable[..., None]:
    """Sets keys of a JSON file; None removes a key."""

    def edit(path: Path, **changes: Any) -> None:
        content = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return edit
