"""Rounded weights on Triton kernels: int8, int4 and e4m3, multiplied by unrounded activations.

The values are those of the reference (`windlass.kernels.quantization`), bit for bit.
"""

from __future__ import annotations

import torch

from windlass.backend.capabilities import Support
from windlass.backend.triton.quantized_tiles import MAX_SPLIT_TILES
from windlass.backend.triton.tuning import TritonTuning
from windlass.config import Quantization
from windlass.kernels.linear import PackedWeight
from windlass.kernels.triton.quantized_linear import QuantizedConfig, pack, quantized_linear

_CHANNELS = 2048
"""Output channels that are held in fp32 at once while packing."""
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def supports_rounding(
    weight: torch.Tensor, quantization: Quantization, tuning: TritonTuning
) -> Support:
    """Whether the kernels take `weight` `[N, K]`, and the chip the format."""
    on_chip = weight.device.type == tuning.device_type
    if weight.dim() != 2 or weight.dtype not in _DTYPES or not on_chip:
        return Support.no(
            f"the weight is not a floating-point matrix on a {tuning.device_type} device"
        )
    return tuning.supports_quantization(quantization)


class RoundedWeight(PackedWeight):
    """A weight `[N, K]`, rounded, on the chip of `tuning`; the weight itself is not kept.

    `packed` is what `windlass.kernels.triton.quantized_linear.pack` gives.
    """

    def __init__(
        self, weight: torch.Tensor, quantization: Quantization, tuning: TritonTuning
    ) -> None:
        self.out_features, self.in_features = weight.shape
        self.quantization = quantization
        self.packed = _packed(weight, quantization)
        self.nbytes = sum(part.nbytes for part in self.packed)
        self._arrived = torch.zeros(MAX_SPLIT_TILES, dtype=torch.int32, device=weight.device)
        self._tuning = tuning
        self._configs: dict[int, QuantizedConfig] = {}

    def apply(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """`x` `[T, K]` times the transposed weight, plus `bias` `[N]`, in the dtype of `x`."""
        return self._product(x, bias, x.dtype)

    def apply_float(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """The same in float32, as it was summed."""
        return self._product(x, bias, torch.float32)

    def _product(
        self, x: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
    ) -> torch.Tensor:
        rows, inputs = x.shape
        if inputs != self.in_features:
            raise ValueError(f"x: expected [T, {self.in_features}], got {list(x.shape)}")
        out = torch.empty((rows, self.out_features), dtype=dtype, device=x.device)
        if rows == 0:
            return out
        config = self._configs.get(rows) or self._choose(rows)
        x = x if x.stride(1) == 1 else x.contiguous()
        quantized_linear(*(x, *self.packed, bias, out, self._arrived, self.quantization, config))
        return out

    def _choose(self, rows: int) -> QuantizedConfig:
        shape = (rows, self.out_features, self.in_features)
        config = self._configs[rows] = self._tuning.quantized_config(self.quantization, *shape)
        return config


def _packed(weight: torch.Tensor, quantization: Quantization) -> tuple[torch.Tensor, torch.Tensor]:
    """`pack` of the whole weight, some channels at a time."""
    parts = [pack(rows, quantization) for rows in torch.split(weight, _CHANNELS)]
    numbers, scales = zip(*parts, strict=True)
    return torch.cat(numbers, dim=1), torch.cat(scales, dim=-1)
