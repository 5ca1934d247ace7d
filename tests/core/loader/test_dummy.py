"""Seeded random weights."""

from __future__ import annotations

import pytest
import torch

from windlass.loader.dummy import DummyTensors


def drawn(seed: int, name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    destination = torch.empty(200, 100, dtype=dtype)
    DummyTensors(seed, std=0.02).fill(name, destination)
    return destination


def test_a_tensor_depends_on_seed_and_name_only() -> None:
    assert torch.equal(drawn(1, "a.weight"), drawn(1, "a.weight"))
    assert not torch.equal(drawn(1, "a.weight"), drawn(2, "a.weight"))
    assert not torch.equal(drawn(1, "a.weight"), drawn(1, "b.weight"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_normal_with_the_given_deviation(dtype: torch.dtype) -> None:
    weights = drawn(0, "a.weight", dtype).float()
    assert weights.mean().abs() < 0.001
    assert weights.std() == pytest.approx(0.02, rel=0.03)


def test_numbers_may_repeat_but_rows_do_not() -> None:
    embedding = torch.empty(9000, 512)
    DummyTensors(0, std=0.02).fill("model.embed_tokens.weight", embedding)
    assert len(embedding.unique(dim=0)) == 9000


def test_norms_are_one_and_biases_zero() -> None:
    assert (drawn(0, "model.layers.0.input_layernorm.weight") == 1).all()
    assert (drawn(0, "model.layers.0.self_attn.q_norm.weight") == 1).all()
    assert (drawn(0, "model.layers.0.self_attn.q_proj.bias") == 0).all()
