"""From the states of a text's tokens to one vector: pooling and the linear layers behind it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from windlass.config import PoolingMethod
from windlass.errors import ModelError
from windlass.loader.pooling import DenseStep

_ACTIVATIONS = {
    "Identity": torch.nn.Identity,
    "Tanh": torch.nn.Tanh,
    "ReLU": torch.nn.ReLU,
    "GELU": torch.nn.GELU,
    "Sigmoid": torch.nn.Sigmoid,
}


def activation(name: str) -> torch.nn.Module:
    """The activation of this name, one of `windlass.loader.pooling.ACTIVATIONS`."""
    module: torch.nn.Module = _ACTIVATIONS[name]()
    return module


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBatch:
    """Texts on the device, padded at their ends.

    `token_ids` is int64 [n, longest], `lengths` and `skips` (tokens that a mean leaves out at the
    start) are int64 [n], `type_ids` is as `token_ids` or None.
    """

    token_ids: torch.Tensor
    lengths: torch.Tensor
    skips: torch.Tensor
    type_ids: torch.Tensor | None
    padded: bool

    def mask(self, *, skips: bool = False) -> torch.Tensor:
        """bool [n, longest]: which tokens are no padding (nor skipped)."""
        positions = torch.arange(self.token_ids.shape[1], device=self.token_ids.device)
        mask = positions < self.lengths[:, None]
        return mask & (positions >= self.skips[:, None]) if skips else mask


def pool(states: torch.Tensor, batch: TextBatch, method: PoolingMethod) -> torch.Tensor:
    """The state that stands for each text: [n, longest, size] -> float32 [n, size]."""
    if method == "cls":
        return states[:, 0].float()
    if method == "last":
        rows = torch.arange(len(states), device=states.device)
        return states[rows, batch.lengths - 1].float()
    mask = batch.mask(skips=True)[:, :, None]
    total = states.float().masked_fill(~mask, 0.0).sum(1)
    return total / mask.sum(1).clamp(min=1)


class DenseLayers(torch.nn.Module):
    """The linear layers that sentence-transformers puts behind the pooling, in float32.

    Raises:
        ModelError: their weights are missing or have another shape.
    """

    def __init__(self, steps: tuple[DenseStep, ...]) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential()
        for step in steps:
            self.layers.append(_read_linear(step))
            self.layers.append(activation(step.activation))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """float32 [n, in_features of the first] -> [n, out_features of the last]."""
        result: torch.Tensor = self.layers(vectors)
        return result


def _read_linear(step: DenseStep) -> torch.nn.Linear:
    path = step.folder / "model.safetensors"
    linear = torch.nn.Linear(step.in_features, step.out_features, bias=step.bias)
    try:
        weights = {name.removeprefix("linear."): tensor for name, tensor in load_file(path).items()}
        linear.load_state_dict(weights)
    except (SafetensorError, OSError, RuntimeError) as exc:
        reason = " ".join(str(exc).split())[:300]
        raise ModelError(
            f"{path} does not hold the layer that its config.json says: {reason}"
        ) from exc
    return linear
