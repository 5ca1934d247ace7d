"""Dense weights: our kernels for few rows, the vendor's library for many."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from windlass.backend.capabilities import SUPPORTED, Support
from windlass.backend.triton.tuning import TritonTuning
from windlass.kernels.linear import DenseWeight
from windlass.kernels.triton.fused_linear import LinearConfig
from windlass.kernels.triton.skinny_linear import skinny_linear, split_counters

_DTYPES = (torch.bfloat16, torch.float16)


def supports_weight(weight: torch.Tensor, tuning: TritonTuning) -> Support:
    """Whether `weight` is a matrix on the chip, in a dtype of the kernels."""
    on_chip = weight.device.type == tuning.device_type
    if weight.dim() != 2 or weight.dtype not in _DTYPES or not on_chip:
        return Support.no(f"the weight is not a 16-bit matrix on a {tuning.device_type} device")
    return SUPPORTED


class TritonWeight(DenseWeight):
    """A 16-bit weight `[N, K]` as it is, on the chip of `tuning`."""

    def __init__(self, weight: torch.Tensor, tuning: TritonTuning) -> None:
        super().__init__(weight.contiguous())
        self._counters = split_counters(self.out_features, weight.device)
        self._configs: list[LinearConfig | None] = [
            tuning.linear_config(rows, self.out_features, self.in_features)
            for rows in range(tuning.most_rows + 1)
        ]
        self._mm_gives_float32 = tuning.mm_gives_float32

    def apply(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """`x` `[T, K]` times the transposed weight, plus `bias` `[N]`, summed in fp32."""
        config = self._config(x)
        if config is None:
            return F.linear(x, self.weight, bias)
        return skinny_linear(x, self.weight, bias, config, counters=self._counters)

    def apply_float(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """The same in float32, as it was summed."""
        config = self._config(x)
        if config is not None:
            counters, dtype = self._counters, torch.float32
            return skinny_linear(x, self.weight, bias, config, counters=counters, out_dtype=dtype)
        if not self._mm_gives_float32:
            return super().apply_float(x, bias)
        out = torch.mm(x, self.weight.t(), out_dtype=torch.float32)
        return out if bias is None else out.add_(bias)

    def _config(self, x: torch.Tensor) -> LinearConfig | None:
        rows = x.shape[0]
        return self._configs[rows] if rows < len(self._configs) and x.stride(1) == 1 else None
