"""Linear layers and the gated feed-forward layer on the reference ops."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from windlass.backend import DenseWeight, Linear, OpRegistry
from windlass.kernels import REFERENCES
from windlass.layers.mlp import GatedMLP


def test_a_linear_layer_adds_its_bias() -> None:
    weight, bias, x = torch.randn(5, 3), torch.randn(5), torch.randn(2, 3)
    linear = Linear(DenseWeight(weight), bias)
    assert torch.equal(linear(x), F.linear(x, weight, bias))


def test_the_bytes_of_a_linear_layer_count_weight_and_bias() -> None:
    weight, bias = torch.zeros(5, 3), torch.zeros(5)
    assert Linear(DenseWeight(weight)).nbytes == 60
    assert Linear(DenseWeight(weight), bias).nbytes == 80


def test_the_gate_is_the_first_half_of_the_merged_product() -> None:
    gate, up, down, x = (torch.randn(s) for s in ((7, 4), (7, 4), (4, 7), (3, 4)))
    mlp = GatedMLP(
        gate_up=Linear(DenseWeight(torch.cat((gate, up)))),
        down=Linear(DenseWeight(down)),
        ops=OpRegistry(REFERENCES),
    )
    expected = (F.silu(x @ gate.T) * (x @ up.T)) @ down.T
    assert torch.allclose(mlp(x), expected, atol=1e-5)
