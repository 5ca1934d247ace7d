"""The references against torch's own operators and transformers' rotary embedding."""

import torch
import torch.nn.functional as F
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from windlass.kernels import DenseWeight
from windlass.kernels.reference import add_rms_norm, rms_norm, rope, silu_mul


def test_rms_norm_is_torchs() -> None:
    x, weight = torch.randn(7, 48), torch.randn(48)
    assert torch.allclose(rms_norm(x, weight, 1e-5), F.rms_norm(x, (48,), weight, 1e-5), atol=1e-6)


def test_rms_norm_of_bfloat16_accumulates_in_float32() -> None:
    x, weight = torch.full((1, 4096), 3.0, dtype=torch.bfloat16), torch.ones(4096).bfloat16()
    assert torch.equal(rms_norm(x, weight, 0.0), torch.ones(1, 4096, dtype=torch.bfloat16))


def test_add_rms_norm_returns_the_sum() -> None:
    x, residual, weight = torch.randn(3, 16), torch.randn(3, 16), torch.randn(16)
    normed, total = add_rms_norm(x, residual, weight, 1e-6)
    assert torch.equal(total, x + residual)
    assert torch.equal(normed, rms_norm(total, weight, 1e-6))


def test_rope_is_transformers() -> None:
    positions = torch.tensor([0, 5, 17])
    frequency = 1.0 / 10_000 ** (torch.arange(0, 32, 2) / 32)
    angle = torch.arange(20)[:, None] * frequency
    cos_sin = torch.cat((angle.cos(), angle.sin()), dim=-1)
    query, key = torch.randn(3, 4, 32), torch.randn(3, 2, 32)
    full = torch.cat((angle, angle), dim=-1)[positions][None]
    expected = apply_rotary_pos_emb(
        query.transpose(0, 1)[None], key.transpose(0, 1)[None], full.cos(), full.sin()
    )
    rotated = rope(query, key, positions, cos_sin)
    for ours, theirs in zip(rotated, expected, strict=True):
        assert torch.allclose(ours, theirs[0].transpose(0, 1), atol=1e-6)


def test_rope_leaves_channels_beyond_the_rotary_ones() -> None:
    query, key = torch.randn(2, 1, 8), torch.randn(2, 1, 8)
    cos_sin = torch.rand(4, 4)
    rotated, _ = rope(query, key, torch.tensor([1, 3]), cos_sin)
    assert torch.equal(rotated[..., 4:], query[..., 4:])
    assert not torch.equal(rotated[..., :4], query[..., :4])


def test_silu_mul_gates_the_second_half() -> None:
    x = torch.randn(3, 10)
    assert torch.equal(silu_mul(x), F.silu(x[:, :5]) * x[:, 5:])


def test_a_dense_weight_multiplies_and_gives_its_rows() -> None:
    weight = torch.randn(6, 4)
    packed = DenseWeight(weight)
    assert packed.keeps_rows
    assert torch.equal(packed.rows(torch.tensor([5, 0])), weight[[5, 0]])
    assert (packed.out_features, packed.in_features, packed.nbytes) == (6, 4, 96)
    x, bias = torch.randn(2, 4), torch.randn(6)
    assert torch.allclose(packed.apply(x, bias), x @ weight.T + bias)
