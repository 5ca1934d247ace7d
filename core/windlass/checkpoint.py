"""Models for a backend that runs them itself: configuration and weights, without torch tensors.

Public for plugins. A backend whose `model_runner` returns a runner of its own reads with this what
the core's loader would read for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy.typing as npt

from windlass.config import ModelConfig
from windlass.loader.describe import ModelDescription, describe_model, open_checkpoint
from windlass.models.config import DecoderConfig, RopeConfig

__all__ = [
    "ArraySource",
    "DecoderConfig",
    "ModelDescription",
    "RopeConfig",
    "describe_model",
    "open_weights",
]


class ArraySource(Protocol):
    """Weights as numpy arrays. `prefix` stands before the names of all but the output layer."""

    prefix: str

    def read(self, name: str, *shape: int) -> npt.NDArray[Any]:
        """The tensor `name` as it is stored: float32, float16 or `ml_dtypes.bfloat16`.

        Raises:
            ModelError: it is missing or has another shape or dtype; names file and tensor.
        """
        ...


@contextmanager
def open_weights(config: ModelConfig, described: ModelDescription) -> Iterator[ArraySource]:
    """The weights of the model, or seeded random ones where `load_format` is "dummy".

    The random ones are float32, and the same that every other backend gets.

    Raises:
        ModelError: the checkpoint is damaged, or holds tensors that were not read by the time that
            the block ends: without them the model would answer wrongly.
    """
    if config.load_format == "dummy":
        from windlass.loader.dummy import DummyTensors

        yield DummyTensors(config.seed, described.decoder.initializer_range)
        return
    with open_checkpoint(described, "np") as checkpoint:
        yield checkpoint
