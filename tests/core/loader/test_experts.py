"""Experts load from every naming, into one tensor for all of a layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, MixtralConfig, PreTrainedConfig, Qwen3MoeConfig

from windlass.backend import Backend, DenseExperts, DenseWeight
from windlass.config import ModelConfig
from windlass.errors import ModelError, UnsupportedError
from windlass.layers.mlp import GatedMLP
from windlass.layers.sparse_moe import SparseMoE
from windlass.loader import LoadedModel, load_decoder
from windlass.loader.checkpoint import SINGLE

SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MIXTRAL = MixtralConfig(**SMALL, num_local_experts=3)
QWEN3 = Qwen3MoeConfig(
    **SMALL, head_dim=8, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=16
)
every_model = pytest.mark.parametrize("config", [MIXTRAL, QWEN3], ids=lambda c: c.model_type)


def load(folder: Path, backend: Backend, **options: Any) -> LoadedModel:
    return load_decoder(ModelConfig(model=str(folder), **options), backend)


def sparse(loaded: LoadedModel, layer: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Router, first products and second products of a layer's experts."""
    mlp = loaded.decoder.layers[layer].mlp
    assert isinstance(mlp, SparseMoE)
    assert isinstance(mlp.router.weight, DenseWeight)
    assert isinstance(mlp.experts, DenseExperts)
    return mlp.router.weight.weight, mlp.experts.gate_up, mlp.experts.down


def check(loaded: LoadedModel, config: PreTrainedConfig, folder: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}.mlp"
        router, gate_up, down = sparse(loaded, layer)
        assert torch.equal(router, theirs[f"{name}.gate.weight"])
        assert torch.equal(gate_up, theirs[f"{name}.experts.gate_up_proj"])
        assert torch.equal(down, theirs[f"{name}.experts.down_proj"])


@every_model
@pytest.mark.parametrize("options", [{}, {"max_shard_size": "10KB"}], ids=["whole", "shards"])
def test_published_names_give_the_tensors_of_transformers(
    config: Any, options: dict[str, Any], save_model: Callable[..., Path], backend: Backend
) -> None:
    folder = save_model(config, **options)
    assert (folder / SINGLE).exists() == (not options)
    check(load(folder, backend), config, folder)


@every_model
def test_published_files_name_every_expert(config: Any, save_model: Callable[..., Path]) -> None:
    """As the files on the hub do; else the test above would prove less than it says."""
    names = set(load_file(save_model(config) / SINGLE))
    expected = {
        "mixtral": "model.layers.1.block_sparse_moe.experts.2.w3.weight",
        "qwen3_moe": "model.layers.1.mlp.experts.4.up_proj.weight",
    }
    assert expected[config.model_type] in names


@every_model
def test_the_names_of_transformers_in_memory_are_understood(
    config: Any, save_model: Callable[..., Path], backend: Backend
) -> None:
    folder = save_model(config)
    state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    (folder / "fused").mkdir()
    save_file({k: v.clone() for k, v in state.items()}, folder / "fused" / SINGLE)
    (folder / "config.json").rename(folder / "fused" / "config.json")
    loaded = load(folder / "fused", backend)
    for layer in range(2):
        _, gate_up, down = sparse(loaded, layer)
        name = f"model.layers.{layer}.mlp.experts"
        assert torch.equal(gate_up, state[f"{name}.gate_up_proj"])
        assert torch.equal(down, state[f"{name}.down_proj"])


@every_model
@pytest.mark.parametrize("load_format", ["auto", "dummy"])
def test_parameters_and_bytes_are_counted_as_transformers_counts(
    config: Any, load_format: str, save_model: Callable[..., Path], backend: Backend
) -> None:
    loaded = load(save_model(config), backend, load_format=load_format, dtype="bfloat16")
    model = AutoModelForCausalLM.from_config(config)
    assert loaded.num_parameters == sum(p.numel() for p in model.parameters())
    assert loaded.weight_bytes == 2 * loaded.num_parameters


def test_layers_may_be_dense_or_sparse(save_model: Callable[..., Path], backend: Backend) -> None:
    config = Qwen3MoeConfig(
        **{**QWEN3.to_dict(), "num_hidden_layers": 4, "decoder_sparse_step": 2},
    )
    config.mlp_only_layers = [3]
    layers = load(save_model(config), backend).decoder.layers
    assert [type(layer.mlp) for layer in layers] == [GatedMLP, SparseMoE, GatedMLP, GatedMLP]


def test_a_missing_expert_is_named(save_model: Callable[..., Path], backend: Backend) -> None:
    folder = save_model(MIXTRAL)
    stored = load_file(folder / SINGLE)
    del stored["model.layers.1.block_sparse_moe.experts.2.w2.weight"]
    save_file(stored, folder / SINGLE)
    with pytest.raises(ModelError, match=r"layers\.1\.block_sparse_moe\.experts\.2\.w2\.weight"):
        load(folder, backend)


def test_an_expert_too_many_is_refused(save_model: Callable[..., Path], backend: Backend) -> None:
    folder = save_model(QWEN3)
    stored = load_file(folder / SINGLE)
    name = "model.layers.0.mlp.experts.{}.down_proj.weight"
    stored[name.format(5)] = stored[name.format(4)].clone()
    save_file(stored, folder / SINGLE)
    with pytest.raises(ModelError, match=r"does not account for.*experts\.5\.down_proj"):
        load(folder, backend)


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_rounded_experts_are_refused(
    quantization: str, save_model: Callable[..., Path], backend: Backend
) -> None:
    with pytest.raises(UnsupportedError, match=f"quantization '{quantization}'.* with experts"):
        load(save_model(QWEN3), backend, quantization=quantization)
