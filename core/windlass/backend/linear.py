"""A linear layer over a weight in the backend's own packing."""

from __future__ import annotations

import torch

from windlass.kernels.linear import PackedWeight


class Linear:
    """`x @ weight.T + bias`: `[T, in_features]` to `[T, out_features]`."""

    __slots__ = ("bias", "weight")

    def __init__(self, weight: PackedWeight, bias: torch.Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output for `x` `[T, in_features]`."""
        return self.weight.apply(x, self.bias)

    def float32(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output in float32."""
        return self.weight.apply_float(x, self.bias)

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)
