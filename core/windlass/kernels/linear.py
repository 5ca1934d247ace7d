"""Linear layers: a weight is packed once at load, by whichever provider will multiply with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F


class PackedWeight(ABC):
    """A weight `[N, K]` in the form that its provider multiplies fastest."""

    in_features: int
    out_features: int
    nbytes: int
    keeps_rows: ClassVar[bool] = False
    """Whether `rows` can be called: a tied embedding is then not held beside this weight."""

    @abstractmethod
    def apply(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """`x` `[T, K]` times the transposed weight, plus `bias` `[N]`: `[T, N]`."""

    def apply_float(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """As `apply`, but float32 `[T, N]`: logits, where a provider need not round them first."""
        return self.apply(x, bias).float()

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows `ids` (int64 `[T]`) of the weight as it was before packing: `[T, K]`.

        Raises:
            IndexError: an id is not a row.
        """
        raise NotImplementedError(f"{type(self).__name__} keeps no rows")


class DenseWeight(PackedWeight):
    """The weight `[N, K]` as it is."""

    keeps_rows = True

    def __init__(self, weight: torch.Tensor):
        self.weight = weight
        self.out_features, self.in_features = weight.shape
        self.nbytes = weight.nbytes

    def apply(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """`x @ weight.T + bias`."""
        return F.linear(x, self.weight, bias)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """`weight[ids]`."""
        return F.embedding(ids, self.weight)
