"""Seeded random weights: the shape of a model without its checkpoint."""

from __future__ import annotations

import hashlib

import torch


class DummyTensors:
    """Weights of a freshly initialised model: norms one, biases zero, the rest normal.

    `std` is the standard deviation. Each tensor depends on `seed` and its name only; numbers are
    drawn where the destination lives, so two kinds of device draw different ones.
    """

    prefix = "model."

    def __init__(self, seed: int, std: float) -> None:
        self.seed = seed
        self.std = std

    def fill(self, name: str, destination: torch.Tensor) -> None:
        """Fill `destination`, in its own dtype."""
        if name.endswith("norm.weight"):
            destination.fill_(1)
        elif name.endswith(".bias"):
            destination.zero_()
        else:
            digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
            generator = torch.Generator(device=destination.device)
            generator.manual_seed(int.from_bytes(digest[:8], "little", signed=True))
            destination.normal_(std=self.std, generator=generator)
