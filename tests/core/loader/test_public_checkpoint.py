"""`windlass.checkpoint`: a model for a runner that is not torch's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from windlass.checkpoint import describe_model, open_weights
from windlass.config import ModelConfig
from windlass.errors import ModelError
from windlass.loader.checkpoint import SINGLE
from windlass.loader.dummy import DummyTensors

EMBEDDING = "model.embed_tokens.weight"


def test_a_description_tells_what_the_loader_would_resolve(tiny: Path) -> None:
    described = describe_model(ModelConfig(model=str(tiny), max_model_len=24))
    assert described.architecture == "LlamaForCausalLM"
    assert described.decoder.max_position == 24
    assert described.decoder.vocab_size == 50
    assert described.dtype == "float32"


def test_weights_are_arrays_and_all_must_be_read(tiny: Path) -> None:
    config = ModelConfig(model=str(tiny))
    described = describe_model(config)
    stored = load_file(tiny / SINGLE)
    with open_weights(config, described) as source:
        assert EMBEDDING.startswith(source.prefix)
        for name, expected in stored.items():
            assert np.array_equal(source.read(name, *expected.shape), expected.numpy())
    with (
        pytest.raises(ModelError, match="holds tensors that its config"),
        open_weights(config, described) as source,
    ):
        source.read(EMBEDDING, 50, 32)


def test_a_wrong_shape_names_file_and_tensor(tiny: Path) -> None:
    config = ModelConfig(model=str(tiny))
    with (
        pytest.raises(ModelError, match=rf"{SINGLE}: tensor '{EMBEDDING}' has shape \[50, 32\]"),
        open_weights(config, describe_model(config)) as source,
    ):
        source.read(EMBEDDING, 50, 33)


def test_bfloat16_keeps_its_bits(tiny: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    stored = {name: tensor.bfloat16() for name, tensor in load_file(tiny / SINGLE).items()}
    save_file(stored, tiny / SINGLE)
    config = ModelConfig(model=str(tiny))
    with open_weights(config, describe_model(config)) as source:
        arrays = {name: source.read(name, *tensor.shape) for name, tensor in stored.items()}
    assert arrays[EMBEDDING].dtype == ml_dtypes.bfloat16
    bits = stored[EMBEDDING].view(torch.int16).numpy()
    assert np.array_equal(arrays[EMBEDDING].view(np.int16), bits)


def test_dummy_arrays_are_the_dummy_tensors(tiny: Path) -> None:
    config = ModelConfig(model=str(tiny), load_format="dummy", seed=3)
    described = describe_model(config)
    expected = torch.empty(50, 32)
    DummyTensors(3, described.decoder.initializer_range).fill(EMBEDDING, expected)
    with open_weights(config, described) as source:
        assert np.array_equal(source.read(EMBEDDING, 50, 32), expected.numpy())
