"""Loading a whole model: what is resolved, what is merged, what is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from windlass.backend import Backend, Capabilities, DenseWeight
from windlass.config import ModelConfig
from windlass.errors import ConfigError, ModelError, UnsupportedError
from windlass.loader import LoadedModel, load_decoder
from windlass.loader.checkpoint import SINGLE


def load(folder: Path, backend: Backend, **options: Any) -> LoadedModel:
    return load_decoder(ModelConfig(model=str(folder), **options), backend)


def dense(linear: Any) -> torch.Tensor:
    assert isinstance(linear.weight, DenseWeight)
    return linear.weight.weight


def table(loaded: LoadedModel) -> torch.Tensor:
    assert isinstance(loaded.decoder.embedding, DenseWeight)
    return loaded.decoder.embedding.weight


def test_projections_are_merged_in_order(tiny: Path, backend: Backend) -> None:
    stored = load_file(tiny / SINGLE)
    layer = load(tiny, backend).decoder.layers[1]
    attention, mlp = "model.layers.1.self_attn", "model.layers.1.mlp"
    qkv = torch.cat([stored[f"{attention}.{p}_proj.weight"] for p in "qkv"])
    gate_up = torch.cat([stored[f"{mlp}.{p}_proj.weight"] for p in ("gate", "up")])
    assert torch.equal(dense(layer.attention.qkv), qkv)
    assert torch.equal(dense(layer.mlp.gate_up), gate_up)


def test_the_biases_of_merged_projections_are_merged_too(
    save_model: Callable[..., Path], llama_config: Callable[..., LlamaConfig], backend: Backend
) -> None:
    folder = save_model(llama_config(attention_bias=True, mlp_bias=True))
    path = folder / SINGLE
    stored = load_file(path)
    for name in stored:
        if name.endswith(".bias"):
            stored[name] = torch.randn_like(stored[name])
    save_file(stored, path)
    layer = load(folder, backend).decoder.layers[0]
    qkv = torch.cat([stored[f"model.layers.0.self_attn.{p}_proj.bias"] for p in "qkv"])
    assert layer.attention.qkv.bias is not None
    assert torch.equal(layer.attention.qkv.bias, qkv)
    assert layer.mlp.down.bias is not None


def test_shards_load_as_one_file_does(
    save_model: Callable[..., Path], llama_config: Callable[..., LlamaConfig], backend: Backend
) -> None:
    folder = save_model(llama_config(), max_shard_size="10KB")
    assert not (folder / SINGLE).exists()
    sharded = load(folder, backend)
    reference = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert torch.equal(dense(sharded.decoder.lm_head), reference["lm_head.weight"])
    assert torch.equal(
        dense(sharded.decoder.layers[1].mlp.down), reference["model.layers.1.mlp.down_proj.weight"]
    )


def test_a_tied_output_layer_shares_the_storage_of_the_embedding(
    save_model: Callable[..., Path], llama_config: Callable[..., LlamaConfig], backend: Backend
) -> None:
    folder = save_model(llama_config(tie_word_embeddings=True))
    assert "lm_head.weight" not in load_file(folder / SINGLE)
    loaded = load(folder, backend)
    assert loaded.decoder.lm_head.weight is loaded.decoder.embedding
    assert loaded.weight_bytes == 4 * loaded.num_parameters


def test_a_tied_embedding_is_held_beside_an_output_layer_that_keeps_no_rows(
    save_model: Callable[..., Path], llama_config: Callable[..., LlamaConfig], backend: Backend
) -> None:
    class Rowless(DenseWeight):
        keeps_rows = False

    def pack_weight(weight: torch.Tensor, quantization: None) -> Rowless:
        return Rowless(weight)

    backend.ops.pack_weight = pack_weight
    folder = save_model(llama_config(tie_word_embeddings=True))
    loaded = load(folder, backend)
    assert torch.equal(table(loaded), dense(loaded.decoder.lm_head))
    assert loaded.weight_bytes == 4 * (loaded.num_parameters + table(loaded).numel())


def test_a_second_copy_of_a_tied_embedding_is_ignored(
    save_model: Callable[..., Path], llama_config: Callable[..., LlamaConfig], backend: Backend
) -> None:
    folder = save_model(llama_config(tie_word_embeddings=True))
    stored = load_file(folder / SINGLE)
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()
    save_file(stored, folder / SINGLE)
    loaded = load(folder, backend)
    assert loaded.decoder.lm_head.weight is loaded.decoder.embedding


def test_an_untied_model_without_output_layer_is_refused(tiny: Path, backend: Backend) -> None:
    stored = load_file(tiny / SINGLE)
    del stored["lm_head.weight"]
    save_file(stored, tiny / SINGLE)
    with pytest.raises(ModelError, match=r"'lm_head\.weight' of shape \[50, 32\] is missing"):
        load(tiny, backend)


def test_names_without_the_model_prefix_are_understood(tiny: Path, backend: Backend) -> None:
    expected = table(load(tiny, backend))
    stored = load_file(tiny / SINGLE)
    save_file({k.removeprefix("model."): v for k, v in stored.items()}, tiny / SINGLE)
    assert torch.equal(table(load(tiny, backend)), expected)


def test_tensors_that_the_configuration_does_not_account_for_are_refused(
    tiny: Path, backend: Backend
) -> None:
    stored = load_file(tiny / SINGLE)
    stored["model.layers.0.self_attn.q_proj.bias"] = torch.ones(32)
    save_file(stored, tiny / SINGLE)
    with pytest.raises(ModelError, match=r"does not account for.*layers\.0\.self_attn\.q_proj\.b"):
        load(tiny, backend)


def test_stored_rotary_frequencies_are_ignored(tiny: Path, backend: Backend) -> None:
    stored = load_file(tiny / SINGLE)
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(stored, tiny / SINGLE)
    assert load(tiny, backend).architecture == "LlamaForCausalLM"


@pytest.mark.parametrize("load_format", ["auto", "dummy"])
@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(
            hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
            vocab_size=50, attention_bias=True, mlp_bias=True,
        ),
        Qwen2Config(
            hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=50,
        ),
        Qwen3Config(
            hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=50, head_dim=16, tie_word_embeddings=True,
        ),
    ],
    ids=lambda config: config.model_type,
)  # fmt: skip
def test_parameters_and_bytes_are_counted_as_transformers_counts(
    config: Any, load_format: str, save_model: Callable[..., Path], backend: Backend
) -> None:
    folder = save_model(config)
    loaded = load(folder, backend, load_format=load_format, dtype="bfloat16")
    model = AutoModelForCausalLM.from_config(config)
    assert loaded.num_parameters == sum(p.numel() for p in model.parameters())
    assert loaded.weight_bytes == 2 * loaded.num_parameters


def test_dummy_weights_need_no_weight_files(tiny: Path, backend: Backend) -> None:
    (tiny / SINGLE).unlink()
    first = table(load(tiny, backend, load_format="dummy", seed=1))
    again = table(load(tiny, backend, load_format="dummy", seed=1))
    other = table(load(tiny, backend, load_format="dummy", seed=2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_progress_rises_to_one(tiny: Path, backend: Backend) -> None:
    reports: list[tuple[str, float]] = []
    load_decoder(
        ModelConfig(model=str(tiny)), backend, lambda what, share: reports.append((what, share))
    )
    shares = [share for _, share in reports]
    assert {what for what, _ in reports} == {"Loading weights"}
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert shares[-1] == 1.0
    assert len(shares) > 3


def test_the_context_is_that_of_the_model_unless_less_is_asked(
    tiny: Path, backend: Backend
) -> None:
    assert load(tiny, backend).max_model_len == 128
    assert load(tiny, backend, max_model_len=100).max_model_len == 100


def test_more_context_than_the_model_has_is_refused(tiny: Path, backend: Backend) -> None:
    with pytest.raises(ConfigError, match=r"max_model_len must be at most 128 .*, not 129"):
        load(tiny, backend, max_model_len=129)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_auto_keeps_the_dtype_of_the_checkpoint(
    dtype: torch.dtype,
    save_model: Callable[..., Path],
    llama_config: Callable[..., LlamaConfig],
    backend: Backend,
) -> None:
    folder = save_model(llama_config(), dtype)
    assert AutoConfig.from_pretrained(folder).dtype == dtype
    loaded = load(folder, backend)
    assert loaded.dtype == dtype
    assert table(loaded).dtype == dtype


def test_auto_falls_back_to_a_dtype_of_the_backend_and_says_so(
    save_model: Callable[..., Path],
    llama_config: Callable[..., LlamaConfig],
    backend: Backend,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = save_model(llama_config(), torch.bfloat16)
    backend.capabilities = Capabilities(dtypes=(torch.float32, torch.float16))
    with caplog.at_level(logging.INFO, "windlass"):
        assert load(folder, backend).dtype == torch.float16
    assert "backend reference has no torch.bfloat16; using torch.float16" in caplog.text


def test_a_dtype_that_the_backend_lacks_is_refused(tiny: Path, backend: Backend) -> None:
    backend.capabilities = Capabilities(dtypes=(torch.float32,))
    with pytest.raises(UnsupportedError, match=r"'reference' lacks .*dtype bfloat16"):
        load(tiny, backend, dtype="bfloat16")


def test_attention_that_the_backend_lacks_is_refused(tiny: Path, backend: Backend) -> None:
    backend.capabilities = Capabilities(attention=frozenset())
    with pytest.raises(UnsupportedError, match=r"lacks .*attention feature 'gqa'"):
        load(tiny, backend)
