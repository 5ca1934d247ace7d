"""Ops by aiter (https://github.com/ROCm/aiter): an op provider for whoever asks for it.

Written against aiter/ops/{rmsnorm,activation}.py as of 2026, and never run: aiter builds its
kernels on an AMD GPU. So its priority is below that of our kernels, and the setting `ops` chooses
it by name ("aiter"). Nothing of it is imported before.
"""

from __future__ import annotations

from typing import Any

import torch

from windlass.backend import SUPPORTED, Support

_DTYPES = (torch.bfloat16, torch.float16)


def supports_rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> Support:
    """16-bit rows that lie one after the other."""
    del weight, eps
    return _supports(x)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """`windlass.kernels.reference.rms_norm`."""
    normed: torch.Tensor = _aiter().rms_norm(x, weight, eps)
    return normed


def supports_add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> Support:
    """16-bit rows that lie one after the other."""
    del weight, eps
    return _supports(x, residual)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`windlass.kernels.reference.add_rms_norm`."""
    normed, total = torch.empty_like(x), torch.empty_like(residual)
    _aiter().rmsnorm2d_fwd_with_add(normed, x, residual, total, weight, eps)
    return normed, total


def supports_silu_mul(x: torch.Tensor) -> Support:
    """16-bit rows that lie one after the other."""
    return _supports(x)


def silu_mul(x: torch.Tensor) -> torch.Tensor:
    """`windlass.kernels.reference.silu_mul`."""
    out = x.new_empty((*x.shape[:-1], x.shape[-1] // 2))
    _aiter().silu_and_mul(out, x)
    return out


def _supports(*operands: torch.Tensor) -> Support:
    for operand in operands:
        if operand.dtype not in _DTYPES:
            return Support.no(f"aiter takes {_DTYPES}, not {operand.dtype}")
        if not operand.is_contiguous():
            return Support.no("aiter takes contiguous rows")
    return SUPPORTED


def _aiter() -> Any:  # noqa: ANN401 - an optional module without types
    import aiter

    return aiter
