"""Seeded random weights: the shape of a model without its checkpoint."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import torch

# A prime, so that no two rows of a weight start at the same place.
_DRAWN = (1 << 22) - 3


class DummyTensors:
    """Weights of a freshly initialised model: norms one, biases zero, the rest normal.

    `std` is the standard deviation. Numbers are drawn once and repeated, which loads a large
    model in seconds; a tensor's name decides where in the repetition it starts. They are drawn
    on the host, so that every device gets the same ones.
    """

    prefix = "model."

    def __init__(self, seed: int, std: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._drawn = torch.empty(_DRAWN).normal_(std=std, generator=generator)

    def holds(self, name: str) -> bool:
        """Whatever is asked for is there."""
        del name
        return True

    def fill(self, name: str, destination: torch.Tensor) -> None:
        """Fill the contiguous `destination`, in its own dtype."""
        if name.endswith("norm.weight"):
            destination.fill_(1)
        elif name.endswith(".bias"):
            destination.zero_()
        else:
            self._repeat(_start(name), destination.view(-1))

    def read(self, name: str, *shape: int) -> npt.NDArray[np.float32]:
        """The same numbers as a float32 array."""
        tensor = torch.empty(shape, dtype=torch.float32)
        self.fill(name, tensor)
        array: npt.NDArray[np.float32] = tensor.numpy()
        return array

    def _repeat(self, start: int, destination: torch.Tensor) -> None:
        if (self._drawn.dtype, self._drawn.device) != (destination.dtype, destination.device):
            self._drawn = self._drawn.to(destination)
        done = 0
        while done < len(destination):
            part = self._drawn[start : start + len(destination) - done]
            destination[done : done + len(part)] = part
            done += len(part)
            start = 0


def _start(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") % _DRAWN
