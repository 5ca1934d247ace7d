"""Norms by Intel Extension for PyTorch, with the signatures of the references."""

from __future__ import annotations

import torch

from windlass.backend import SUPPORTED, Support
from windlass_xpu.ipex_library import ipex_module


def supports_rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> Support:
    """The extension reads numbers and weights of one dtype."""
    del eps
    if weight.dtype is not x.dtype:
        return Support.no(f"x of {x.dtype} and a weight of {weight.dtype}")
    return SUPPORTED


def supports_add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> Support:
    """As of the norm alone."""
    if residual.dtype is not x.dtype:
        return Support.no(f"x of {x.dtype} and a residual of {residual.dtype}")
    return supports_rms_norm(x, weight, eps)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """`windlass.kernels.reference.rms_norm`."""
    normed: torch.Tensor = ipex_module("llm.functional").rms_norm(x.contiguous(), weight, eps)
    return normed


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`windlass.kernels.reference.add_rms_norm`."""
    # The extension adds into the residual, which the caller keeps.
    total = residual.clone(memory_format=torch.contiguous_format)
    normed: torch.Tensor = ipex_module("llm.functional").add_rms_norm(
        total, x.contiguous(), weight, None, eps, True
    )
    return normed, total
