"""The torch reference of every op: the meaning of the contract, and the fallback of every backend.

T tokens, R requests, H hidden size, I intermediate size, V vocabulary, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from windlass.config import Quantization
from windlass.kernels.experts import pack_experts, route_experts
from windlass.kernels.linear import DenseWeight, PackedWeight
from windlass.kernels.quantization import QuantizedWeight
from windlass.kernels.sampling import (
    apply_token_mask,
    greedy,
    penalties,
    sample,
    token_logprobs,
)
from windlass.kernels.step import begin_decode, next_tokens


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root-mean-square norm over the last axis, in float32 (Zhang and Sennrich, 2019).

    `x` `[..., H]` and `weight` `[H]` of the model's dtype; the result has `x`'s shape and dtype.
    """
    x32 = x.to(torch.float32)
    normed = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`x + residual` and its norm, both `[T, H]`: (normed, new residual)."""
    residual = x + residual
    return rms_norm(residual, weight, eps), residual


def rope(
    query: torch.Tensor, key: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotary position embedding (Su et al., 2021), halves rotated against each other.

    `query` `[T, Hq, D]`, `key` `[T, Hkv, D]`, `positions` int64 `[T]`; `cos_sin` float32
    `[P, rot]` holds rot/2 cosines, then rot/2 sines, for the first `rot` channels.
    """
    cos, sin = cos_sin[positions][:, None, :].chunk(2, dim=-1)
    return _rotate(query, cos, sin), _rotate(key, cos, sin)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = cos.shape[-1]
    first, second = x[..., :half].float(), x[..., half : 2 * half].float()
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return torch.cat((rotated.to(x.dtype), x[..., 2 * half :]), dim=-1)


def silu_mul(x: torch.Tensor) -> torch.Tensor:
    """SiLU of the first half times the second (SwiGLU): `[T, 2I]` to `[T, I]`."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def pack_weight(weight: torch.Tensor, quantization: Quantization | None = None) -> PackedWeight:
    """A weight `[N, K]` of a linear layer for the products to come: as it is, or rounded.

    The caller gives `weight` away.
    """
    return DenseWeight(weight) if quantization is None else QuantizedWeight(weight, quantization)


REFERENCES: dict[str, Callable[..., Any]] = {
    "rms_norm": rms_norm,
    "add_rms_norm": add_rms_norm,
    "rope": rope,
    "silu_mul": silu_mul,
    "pack_weight": pack_weight,
    "route_experts": route_experts,
    "pack_experts": pack_experts,
    "penalties": penalties,
    "apply_token_mask": apply_token_mask,
    "greedy": greedy,
    "sample": sample,
    "token_logprobs": token_logprobs,
    "begin_decode": begin_decode,
    "next_tokens": next_tokens,
}
