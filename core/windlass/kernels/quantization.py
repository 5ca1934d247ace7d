"""The reference of quantised linear layers: what every provider of them rounds, in plain torch.

A format says what a weight becomes, once, at load, and every provider rounds it to the same values,
symmetrically: int8 and fp8 (e4m3, OCP 8-bit floating point) with a float32 scale for an output
channel, int4 with a float16 one for every 32 inputs of a channel.

A product takes activations as they are, or, of int8 and int4 weights, rounded to int8 for that
product: by row for int8, by the same groups of 32 for int4, and never more coarsely. This reference
rounds them; a provider whose product is as fast with unrounded ones does not, and is more exact.
fp8 never rounds activations. Sums are exact to fp32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from windlass.config import Quantization
from windlass.kernels.linear import PackedWeight

INT4_GROUP = 32
"""Inputs of a channel that share a scale."""
FP8_LARGEST = 448.0
"""The largest finite value of e4m3."""
_SHRINK = (1.0, 0.95, 0.9, 0.85)
"""An int4 group's largest magnitude becomes -8 over the one of these that leaves least error."""
_CHANNELS = 1024
"""Output channels that are held in fp32 at once."""

_Rounded = tuple[torch.Tensor, torch.Tensor]


class QuantizedWeight(PackedWeight):
    """A weight `[N, K]` as small numbers and scales, multiplied as what they stand for."""

    def __init__(self, weight: torch.Tensor, quantization: Quantization) -> None:
        self.out_features, self.in_features = weight.shape
        self.quantization = quantization
        self._group = INT4_GROUP if quantization == "int4" else self.in_features
        self._chunks = [self._round(rows) for rows in torch.split(weight, _CHANNELS)]
        self.nbytes = sum(part.nbytes for chunk in self._chunks for part in chunk)

    def apply(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """`x @ weight.T + bias` of rounded values, in the dtype of `x`."""
        return self.apply_float(x, bias).to(x.dtype)

    def apply_float(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """The same in float32, as it is summed."""
        left = self._grouped(x)
        if self.quantization != "fp8":
            integers, scales = round_to_int8(left)
            left = integers * scales
        left = left.flatten(1)
        result = torch.cat([left @ self._values(*chunk).T for chunk in self._chunks], dim=1)
        return result if bias is None else result + bias.float()

    def values(self) -> torch.Tensor:
        """What the weight was rounded to: float32 `[N, K]`."""
        values = torch.cat([self._values(*chunk) for chunk in self._chunks])
        return values[:, : self.in_features]

    def _grouped(self, values: torch.Tensor) -> torch.Tensor:
        """`[..., K]` in fp32 as `[..., groups, group]`, with zeros at the end."""
        padded = F.pad(values.float(), (0, -self.in_features % self._group))
        return padded.view(len(padded), padded.shape[1] // self._group, self._group)

    def _round(self, weight: torch.Tensor) -> _Rounded:
        groups = self._grouped(weight)
        if self.quantization == "int4":
            integers, scales = round_to_int4(groups)
            offset = (integers + 8).to(torch.uint8)
            return offset[..., ::2] | offset[..., 1::2] << 4, scales.half()
        if self.quantization == "fp8":
            return round_to_fp8(groups)
        integers, scales = round_to_int8(groups)
        return integers.to(torch.int8), scales

    def _values(self, numbers: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """What a chunk stands for: fp32 `[channels, K]`, padded as `_grouped` pads."""
        if self.quantization == "int4":
            numbers = torch.stack((numbers & 15, numbers >> 4), dim=-1).flatten(-2).float() - 8
        return (numbers.float() * scales.float()).flatten(1)


def round_to_int8(groups: torch.Tensor) -> _Rounded:
    """Integers up to 127 in magnitude, still as fp32, and the scale of each `[..., group]`.

    A group that holds NaN or infinity becomes NaN.
    """
    scales = groups.abs().amax(-1, keepdim=True) / 127
    return _integers(groups, scales, -127, 127), scales


def round_to_fp8(groups: torch.Tensor) -> _Rounded:
    """e4m3 numbers, to the nearest and ties to even, and the scale of each fp32 `[..., group]`.

    A group's largest magnitude becomes 448. A group that holds NaN or infinity becomes NaN.
    """
    scales = groups.abs().amax(-1, keepdim=True) / FP8_LARGEST
    scaled = (groups * _inverse(scales)).clamp(-FP8_LARGEST, FP8_LARGEST)
    return scaled.to(torch.float8_e4m3fn), scales


def round_to_int4(groups: torch.Tensor) -> _Rounded:
    """Integers from -8 to 7, still as fp32, and the scale, a float16, of each `[..., group]`."""
    lowest, highest = groups.aminmax(dim=-1, keepdim=True)
    largest = torch.where(lowest.abs() >= highest, lowest, highest)
    best, best_error = groups, torch.full_like(largest, torch.inf)
    scales = torch.zeros_like(largest)
    for shrink in _SHRINK:
        scale = (largest * shrink / -8).clamp(-65504, 65504).half().float()
        integers = _integers(groups, scale, -8, 7)
        error = (groups - integers * scale).square().sum(-1, keepdim=True)
        better = error < best_error
        best, scales = torch.where(better, integers, best), torch.where(better, scale, scales)
        best_error = torch.where(better, error, best_error)
    return best, scales


def _integers(groups: torch.Tensor, scales: torch.Tensor, low: int, high: int) -> torch.Tensor:
    return (groups * _inverse(scales)).round().clamp(low, high)


def _inverse(scales: torch.Tensor) -> torch.Tensor:
    """What to multiply with, and 0 where there is nothing to divide by."""
    return torch.nan_to_num(1 / scales, nan=0.0, posinf=0.0, neginf=0.0)
