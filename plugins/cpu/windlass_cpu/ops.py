"""Elementwise ops by the C++ kernels, one pass over memory each.

A call that the kernels cannot take (another dtype) goes to the reference here, not through a
`supports` predicate: an op without one is called directly, without a choice at every call.
"""

from __future__ import annotations

import ctypes

import torch

from windlass.kernels import reference
from windlass_cpu.row_calls import (
    DTYPE_CODES,
    MAX_HEAD_DIM,
    NormCall,
    RopeCall,
    SiluMulCall,
    head_rows,
    row_library,
    unit_stride,
)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """`windlass.kernels.reference.rms_norm`."""
    code = DTYPE_CODES.get(x.dtype)
    if code is None or weight.dtype is not x.dtype:
        return reference.rms_norm(x, weight, eps)
    # Named, so that a copy made here lives as long as the call.
    x, weight, size = x.contiguous(), weight.contiguous(), x.shape[-1]
    out = torch.empty_like(x)
    call = NormCall(x.data_ptr(), None, weight.data_ptr(), None, out.data_ptr(), size, eps)
    row_library().windlass_rms_norm(ctypes.byref(call), x.numel() // size, code)
    return out


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`windlass.kernels.reference.add_rms_norm`."""
    code = DTYPE_CODES.get(x.dtype)
    if code is None or not x.dtype is residual.dtype is weight.dtype:
        return reference.add_rms_norm(x, residual, weight, eps)
    x, residual, weight = x.contiguous(), residual.contiguous(), weight.contiguous()
    out, total = torch.empty_like(x), torch.empty_like(x)
    call = NormCall(
        x.data_ptr(),
        residual.data_ptr(),
        weight.data_ptr(),
        total.data_ptr(),
        out.data_ptr(),
        x.shape[-1],
        eps,
    )
    row_library().windlass_rms_norm(ctypes.byref(call), x.numel() // x.shape[-1], code)
    return out, total


def silu_mul(x: torch.Tensor) -> torch.Tensor:
    """`windlass.kernels.reference.silu_mul`."""
    code = DTYPE_CODES.get(x.dtype)
    if code is None:
        return reference.silu_mul(x)
    x, size = x.contiguous(), x.shape[-1] // 2
    out = x.new_empty((*x.shape[:-1], size))
    call = SiluMulCall(x.data_ptr(), out.data_ptr(), size, size)
    row_library().windlass_silu_mul(ctypes.byref(call), x.numel() // x.shape[-1], code)
    return out


def rope(
    query: torch.Tensor, key: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`windlass.kernels.reference.rope`."""
    code = DTYPE_CODES.get(query.dtype)
    if code is None or key.dtype is not query.dtype or query.shape[-1] > MAX_HEAD_DIM:
        return reference.rope(query, key, positions, cos_sin)
    query, key, positions = unit_stride(query), unit_stride(key), positions.contiguous()
    rotated = (query.new_empty(query.shape), key.new_empty(key.shape))
    call = RopeCall(
        query=head_rows(query, rotated[0]),
        key=head_rows(key, rotated[1]),
        head_dim=query.shape[-1],
        positions=positions.data_ptr(),
        cos_sin=cos_sin.data_ptr(),
        rotated=cos_sin.shape[1],
    )
    row_library().windlass_rope(ctypes.byref(call), len(query), code)
    return rotated
