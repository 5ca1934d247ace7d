"""Sampling by the C++ kernels: selection in place of a sort, no copy of the logits."""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p
from functools import cache
from typing import ClassVar

import torch

from windlass.kernels import sampling as reference
from windlass_cpu.library import declare, load_library
from windlass_cpu.row_calls import unit_stride

Logprobs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class _SampleCall(ctypes.Structure):
    """`SampleCall` of `csrc/sampling.h`."""

    _fields_: ClassVar = [
        ("logits", c_void_p),
        ("stride", c_int64),
        ("num_rows", c_int64),
        ("vocab_size", c_int64),
        ("temperature", c_void_p),
        ("top_k", c_void_p),
        ("top_p", c_void_p),
        ("min_p", c_void_p),
        ("seed", c_void_p),
        ("position", c_void_p),
        ("tokens", c_void_p),
    ]


class _LogprobCall(ctypes.Structure):
    """`LogprobCall` of `csrc/sampling.h`."""

    _fields_: ClassVar = [
        ("logits", c_void_p),
        ("stride", c_int64),
        ("num_rows", c_int64),
        ("vocab_size", c_int64),
        ("tokens", c_void_p),
        ("num_top", c_int64),
        ("chosen", c_void_p),
        ("rank", c_void_p),
        ("top_ids", c_void_p),
        ("top", c_void_p),
    ]


def greedy(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`windlass.kernels.sampling.greedy`."""
    if not _known(logits):
        return reference.greedy(logits)
    logits = unit_stride(logits)
    rows, vocab_size = logits.shape
    tokens = logits.new_empty(rows, dtype=torch.int64)
    largest = logits.new_empty(rows)
    _library().windlass_greedy(
        logits.data_ptr(),
        logits.stride(0),
        rows,
        vocab_size,
        tokens.data_ptr(),
        largest.data_ptr(),
    )
    return largest, tokens


def sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor | None,
    top_p: torch.Tensor | None,
    min_p: torch.Tensor | None,
    seed: torch.Tensor,
    position: torch.Tensor,
) -> torch.Tensor:
    """`windlass.kernels.sampling.sample`."""
    if not _known(logits):
        return reference.sample(logits, temperature, top_k, top_p, min_p, seed, position)
    logits = unit_stride(logits)
    tokens = logits.new_empty(len(logits), dtype=torch.int64)
    parameters = (
        _as(temperature, torch.float32),
        _as(top_k, torch.int32),
        _as(top_p, torch.float32),
        _as(min_p, torch.float32),
        _as(seed, torch.int64),
        _as(position, torch.int64),
    )
    call = _SampleCall(
        logits.data_ptr(),
        logits.stride(0),
        *logits.shape,
        *(None if parameter is None else parameter.data_ptr() for parameter in parameters),
        tokens.data_ptr(),
    )
    _library().windlass_sample(ctypes.byref(call))
    return tokens


def token_logprobs(logits: torch.Tensor, tokens: torch.Tensor, num_top: int) -> Logprobs:
    """`windlass.kernels.sampling.token_logprobs`."""
    rows, vocab_size = logits.shape
    if not _known(logits) or num_top > vocab_size:
        return reference.token_logprobs(logits, tokens, num_top)
    logits = unit_stride(logits)
    ids = tokens.to(torch.int64).contiguous()
    chosen, rank = logits.new_empty(rows), logits.new_empty(rows, dtype=torch.int64)
    top_ids = logits.new_empty((rows, num_top), dtype=torch.int64)
    top = logits.new_empty((rows, num_top))
    outputs = (chosen, rank, top_ids, top)
    call = _LogprobCall(
        logits.data_ptr(),
        logits.stride(0),
        rows,
        vocab_size,
        ids.data_ptr(),
        num_top,
        *(output.data_ptr() for output in outputs),
    )
    _library().windlass_token_logprobs(ctypes.byref(call))
    return outputs


def _known(logits: torch.Tensor) -> bool:
    return logits.dtype is torch.float32 and 0 < logits.shape[1] < 1 << 31


def _as(parameter: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    return None if parameter is None else parameter.to(dtype).contiguous()


@cache
def _library() -> ctypes.CDLL:
    library = load_library()
    sizes = (c_int64, c_int64, c_int64)
    declare(library, "windlass_greedy", c_void_p, *sizes, c_void_p, c_void_p)
    declare(library, "windlass_sample", c_void_p)
    declare(library, "windlass_token_logprobs", c_void_p)
    return library
