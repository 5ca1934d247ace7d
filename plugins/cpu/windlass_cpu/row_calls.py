"""The C structures of `csrc/rows.h`, and the functions that take them."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p
from functools import cache
from typing import ClassVar

import torch

from windlass_cpu.library import declare, load_library

DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""The dtypes that the kernels know, in the numbers of `csrc/attention.h`."""

MAX_HEAD_DIM = 1024
"""The widest head that `windlass_rope` takes."""


class CacheStrides(ctypes.Structure):
    """Strides of one layer's keys or values, in numbers."""

    _fields_: ClassVar = [("block", c_int64), ("token", c_int64), ("head", c_int64)]


class CacheSide(ctypes.Structure):
    """One layer's keys or values: their address, that of their scales, and where tokens lie."""

    _fields_: ClassVar = [
        ("numbers", c_void_p),
        ("scales", c_void_p),
        ("strides", CacheStrides),
        ("scale_strides", CacheStrides),
    ]


class NormCall(ctypes.Structure):
    """`NormCall`."""

    _fields_: ClassVar = [
        ("rows", c_void_p),
        ("residual", c_void_p),
        ("weight", c_void_p),
        ("residual_out", c_void_p),
        ("out", c_void_p),
        ("size", c_int64),
        ("eps", c_float),
    ]


class SiluMulCall(ctypes.Structure):
    """`SiluMulCall`."""

    _fields_: ClassVar = [
        ("rows", c_void_p),
        ("out", c_void_p),
        ("size", c_int64),
        ("out_stride", c_int64),
    ]


class HeadRows(ctypes.Structure):
    """`HeadRows`."""

    _fields_: ClassVar = [
        ("heads", c_void_p),
        ("out", c_void_p),
        ("token_stride", c_int64),
        ("head_stride", c_int64),
        ("out_token_stride", c_int64),
        ("out_head_stride", c_int64),
        ("num_heads", c_int64),
        ("weight", c_void_p),
    ]


class RopeCall(ctypes.Structure):
    """`RopeCall`."""

    _fields_: ClassVar = [
        ("query", HeadRows),
        ("key", HeadRows),
        ("value", c_void_p),
        ("value_token_stride", c_int64),
        ("value_head_stride", c_int64),
        ("head_dim", c_int64),
        ("positions", c_void_p),
        ("cos_sin", c_void_p),
        ("rotated", c_int64),
        ("slots", c_void_p),
        ("keys", CacheSide),
        ("values", CacheSide),
        ("block_size", c_int64),
        ("eps", c_float),
        ("cache_format", c_int32),
    ]


class WriteCall(ctypes.Structure):
    """`WriteCall`."""

    _fields_: ClassVar = [
        ("heads", c_void_p),
        ("token_stride", c_int64),
        ("head_stride", c_int64),
        ("num_heads", c_int64),
        ("head_dim", c_int64),
        ("slots", c_void_p),
        ("side", CacheSide),
        ("block_size", c_int64),
        ("cache_format", c_int32),
    ]


@cache
def row_library() -> ctypes.CDLL:
    """The library with the types of the row kernels."""
    library = load_library()
    for name in (
        "windlass_rms_norm",
        "windlass_silu_mul",
        "windlass_rope",
        "windlass_write_slots",
    ):
        declare(library, name, c_void_p, c_int64, c_int32)
    return library


def head_rows(
    heads: torch.Tensor, out: torch.Tensor | None, weight: torch.Tensor | None = None
) -> HeadRows:
    """Heads `[T, H, D]` whose channels lie side by side, and where their result goes."""
    token_stride, head_stride, _ = heads.stride()
    out_strides = (0, 0) if out is None else out.stride()
    return HeadRows(
        heads.data_ptr(),
        None if out is None else out.data_ptr(),
        token_stride,
        head_stride,
        out_strides[0],
        out_strides[1],
        heads.shape[1],
        None if weight is None else weight.data_ptr(),
    )


def unit_stride(x: torch.Tensor) -> torch.Tensor:
    """`x`, or a copy, with its last axis side by side in memory."""
    return x if x.stride(-1) == 1 else x.contiguous()
