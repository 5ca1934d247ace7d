"""A quantised load: which layers are rounded to what, what is counted, what the log says."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from windlass.backend import Backend, DenseWeight, Linear, PackedWeight, QuantizedWeight
from windlass.config import ModelConfig
from windlass.loader import LoadedModel, load_decoder

SaveModel = Callable[..., Path]
every_format = pytest.mark.parametrize("quantization", ["int8", "int4", "fp8"])


def load(folder: Path, backend: Backend, **options: Any) -> LoadedModel:
    return load_decoder(ModelConfig(model=str(folder), **options), backend)


def format_of(linear: Linear) -> str:
    assert isinstance(linear.weight, QuantizedWeight)
    return linear.weight.quantization


@every_format
def test_every_projection_is_rounded_and_the_output_layer_to_int8(
    tiny: Path, backend: Backend, quantization: str
) -> None:
    decoder = load(tiny, backend, quantization=quantization).decoder
    for layer in decoder.layers:
        projections = (layer.attention.qkv, layer.attention.o, layer.mlp.gate_up, layer.mlp.down)
        assert {format_of(projection) for projection in projections} == {quantization}
    assert format_of(decoder.lm_head) == "int8"


def test_the_embedding_is_kept_and_a_tied_output_layer_rounded(
    save_model: SaveModel, llama_config: Callable[..., LlamaConfig], backend: Backend
) -> None:
    folder = save_model(llama_config(tie_word_embeddings=True))
    plain, rounded = load(folder, backend), load(folder, backend, quantization="int8")
    ids = torch.arange(50)
    assert torch.equal(rounded.decoder.embedding.rows(ids), plain.decoder.embedding.rows(ids))
    assert isinstance(plain.decoder.lm_head.weight, DenseWeight)
    assert format_of(rounded.decoder.lm_head) == "int8"


@every_format
def test_bytes_are_those_of_what_is_held(tiny: Path, backend: Backend, quantization: str) -> None:
    loaded = load(tiny, backend, quantization=quantization)
    decoder = loaded.decoder
    linears = [decoder.lm_head]
    kept: list[torch.Tensor | PackedWeight] = [decoder.embedding, decoder.norm]
    for layer in decoder.layers:
        linears += [layer.attention.qkv, layer.attention.o, layer.mlp.gate_up, layer.mlp.down]
        kept += [layer.input_norm, layer.post_attention_norm]
    held = sum(part.nbytes for part in (*linears, *kept))
    assert loaded.weight_bytes == held < 4 * loaded.num_parameters


def test_the_log_says_when_no_kernel_multiplies_the_rounded_weights(
    tiny: Path, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    load(tiny, backend)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    load(tiny, backend, quantization="int8", dtype="float32")
    warning = next(r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert "backend reference has no kernel that multiplies 9 of 9 linear layers as int8" in warning
    assert "dtype bfloat16 may have one" in warning
    assert "as int8" in caplog.text
