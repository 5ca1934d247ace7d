"""Imported when the backend was selected."""

from collections import Counter

import torch

from windlass.backend import TorchBackend

calls: Counter[str] = Counter()


class SampleBackend(TorchBackend):
    """Every part as `TorchBackend` makes it."""


def silu_mul(x: torch.Tensor) -> torch.Tensor:
    """SiLU of the first half times the second: `[T, 2I]` to `[T, I]`; counts its calls."""
    calls["silu_mul"] += 1
    gate, up = x.chunk(2, dim=-1)
    return gate * torch.sigmoid(gate) * up
