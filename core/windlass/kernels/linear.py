"""Linear layers: a weight is packed once at load, by whichever provider will multiply with it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F


class PackedWeight(ABC):
    """A weight `[N, K]` in the form that its provider multiplies fastest."""

    in_features: int
    out_features: int
    nbytes: int

    @abstractmethod
    def apply(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """`x` `[T, K]` times the transposed weight, plus `bias` `[N]`: `[T, N]`."""

    def apply_float(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """As `apply`, but float32 `[T, N]`: logits, where a provider need not round them first."""
        return self.apply(x, bias).float()


class DenseWeight(PackedWeight):
    """The weight as it is."""

    def __init__(self, weight: torch.Tensor):
        self.weight = weight
        self.out_features, self.in_features = weight.shape
        self.nbytes = weight.nbytes

    def apply(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """`x @ weight.T + bias`."""
        return F.linear(x, self.weight, bias)
