"""The reference of quantised linear layers: what every provider of them rounds, in plain torch.

Weights are rounded once, activations for each product, both symmetrically: int8 with one scale for
an output channel and one for a row of activations; int4 with one for every 32 inputs of a channel,
where the activations are rounded to int8 by the same groups. Sums are exact to fp32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from windlass.config import Quantization
from windlass.kernels.linear import PackedWeight

INT4_GROUP = 32
"""Inputs of a channel that share a scale."""
_SHRINK = (1.0, 0.95, 0.9, 0.85)
"""An int4 group's largest magnitude becomes -8 over the one of these that leaves least error."""
_CHANNELS = 1024
"""Output channels that are held in fp32 at once."""

_Rounded = tuple[torch.Tensor, torch.Tensor]


class QuantizedWeight(PackedWeight):
    """A weight `[N, K]` as small integers and scales, multiplied as what they stand for."""

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
        integers, scales = round_to_int8(self._grouped(x))
        left = (integers * scales).flatten(1)
        result = torch.cat([left @ self._values(*chunk).T for chunk in self._chunks], dim=1)
        return result if bias is None else result + bias.float()

    def _grouped(self, values: torch.Tensor) -> torch.Tensor:
        """`[..., K]` in fp32 as `[..., groups, group]`, with zeros at the end."""
        padded = F.pad(values.float(), (0, -self.in_features % self._group))
        return padded.view(len(padded), padded.shape[1] // self._group, self._group)

    def _round(self, weight: torch.Tensor) -> _Rounded:
        groups = self._grouped(weight)
        if self.quantization == "int4":
            integers, scales = _round_to_int4(groups)
            offset = (integers + 8).to(torch.uint8)
            return offset[..., ::2] | offset[..., 1::2] << 4, scales.half()
        integers, scales = round_to_int8(groups)
        return integers.to(torch.int8), scales

    def _values(self, integers: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """What a chunk stands for: fp32 `[channels, K]`, padded as `_grouped` pads."""
        if self.quantization == "int4":
            integers = torch.stack((integers & 15, integers >> 4), dim=-1).flatten(-2).float() - 8
        return (integers * scales.float()).flatten(1)


def round_to_int8(groups: torch.Tensor) -> _Rounded:
    """Integers up to 127 in magnitude, still as fp32, and the scale of each `[..., group]`.

    A group that holds NaN or infinity becomes NaN.
    """
    scales = groups.abs().amax(-1, keepdim=True) / 127
    return _integers(groups, scales, -127, 127), scales


def _round_to_int4(groups: torch.Tensor) -> _Rounded:
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
    inverse = torch.nan_to_num(1 / scales, nan=0.0, posinf=0.0, neginf=0.0)
    return (groups * inverse).round().clamp(low, high)
