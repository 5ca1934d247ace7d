"""The experts of a layer in a checkpoint, which has one of three sets of names for them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from windlass.loader.checkpoint import TensorSource


class ExpertNames(NamedTuple):
    """What a layer's tensors are called.

    `router` is without ".weight", and `experts` what stands before the rest of an expert's name.
    `gate`, `up` and `down` are the products of a single expert; without them the checkpoint holds
    all experts in one tensor, as transformers does in memory.
    """

    router: str
    experts: str
    gate: str = ""
    up: str = ""
    down: str = ""


_FUSED = ExpertNames("mlp.gate", "mlp.experts")
_PUBLISHED = (
    ExpertNames("mlp.gate", "mlp.experts", "gate_proj", "up_proj", "down_proj"),
    ExpertNames("block_sparse_moe.gate", "block_sparse_moe.experts", "w1", "w3", "w2"),
)
"""Of Qwen3-MoE and of Mixtral."""


def find_experts(source: TensorSource, layer: str) -> ExpertNames:
    """The names that `source` has for the experts of `layer`, such as "model.layers.0"."""
    chosen = _PUBLISHED[0]
    if source.holds(f"{layer}.{_FUSED.experts}.gate_up_proj"):
        chosen = _FUSED
    else:
        for names in _PUBLISHED:
            if source.holds(f"{layer}.{names.router}.weight"):
                chosen = names
    return chosen._replace(router=f"{layer}.{chosen.router}", experts=f"{layer}.{chosen.experts}")


def fill_experts(
    source: TensorSource, names: ExpertNames, gate_up: torch.Tensor, down: torch.Tensor
) -> None:
    """Read all experts into `gate_up` `[E, 2I, H]`, gates first, and `down` `[E, H, I]`.

    Raises:
        ModelError: see `Checkpoint.fill`.
    """
    if not names.gate:
        source.fill(f"{names.experts}.gate_up_proj", gate_up)
        source.fill(f"{names.experts}.down_proj", down)
        return
    intermediate = gate_up.shape[1] // 2
    for expert in range(len(gate_up)):
        name = f"{names.experts}.{expert}"
        source.fill(f"{name}.{names.gate}.weight", gate_up[expert, :intermediate])
        source.fill(f"{name}.{names.up}.weight", gate_up[expert, intermediate:])
        source.fill(f"{name}.{names.down}.weight", down[expert])
