"""Keys and values in one byte a number: int8 with a scale for each token and head, or fp8 (e4m3).

Scales are measured as tokens are written, so nothing is calibrated and what is stored of a token
never depends on another one. fp8 has none: its exponent covers what keys and values reach, and
what is beyond the largest number becomes that: 448, or 240 in the format without -0 ("fnuz").
"""

from __future__ import annotations

import torch

FP8 = torch.float8_e4m3fn
FP8_LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e4m3fnuz: 240.0}
"""The formats of an fp8 cache, and the largest number of each."""

_INT8_LARGEST = 127.0
_SMALLEST_MAGNITUDE = 1e-35


def quantize_kv(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Numbers of `x` `[..., D]` as they are stored, and float32 scales `[...]` for int8.

    A dtype of more than a byte is only converted to. An int8 scale is the largest magnitude
    divided by 127, so that `stored * scale` is off by half a scale at most.
    """
    if dtype == torch.int8:
        numbers = x.float()
        magnitude = numbers.abs().amax(-1)
        # A tensor, for torch divides a number by a tensor with two roundings.
        largest = torch.full_like(magnitude, _INT8_LARGEST)
        inverse = torch.where(magnitude > _SMALLEST_MAGNITUDE, largest / magnitude, 0.0)
        # A number that is not finite shows in the scale, whatever it is rounded to here.
        rounded = (numbers * inverse[..., None]).round().nan_to_num(0.0)
        return rounded.to(torch.int8), magnitude / largest
    if dtype in FP8_LARGEST:
        most = FP8_LARGEST[dtype]
        return x.float().clamp(-most, most).to(dtype), None
    return x.to(dtype), None


def dequantize_kv(
    stored: torch.Tensor, scales: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """What `quantize_kv` stored, as numbers of `dtype`."""
    if scales is None:
        return stored.to(dtype)
    return (stored.float() * scales[..., None]).to(dtype)


def indexable(stored: torch.Tensor) -> torch.Tensor:
    """A view that every torch can index: of fp8 the bytes."""
    return stored.view(torch.uint8) if stored.dtype in FP8_LARGEST else stored


def take_blocks(
    cache: torch.Tensor, scales: torch.Tensor | None, blocks: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Blocks `[n]` of a `[B, N, H, C]` cache with scales `[B, N, H]`, as numbers of `dtype`."""
    stored = indexable(cache).index_select(0, blocks).view(cache.dtype)
    return dequantize_kv(stored, None if scales is None else scales.index_select(0, blocks), dtype)
