"""The sparse feed-forward layer: a mixture of experts."""

from __future__ import annotations

import torch

from windlass.backend import ExpertWeights, OpRegistry


class SparseMoE:
    """Each token through the experts that the router chooses: `[T, H]` to `[T, H]`."""

    def __init__(self, weights: ExpertWeights, ops: OpRegistry) -> None:
        self.router = weights.router
        self.experts = weights.experts
        self.top_k = weights.top_k
        self.renormalize = weights.renormalize
        self._route_experts = ops.route_experts

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """The layer's output for `hidden` `[T, H]`."""
        weights, ids = self._route_experts(self.router(hidden), self.top_k, self.renormalize)
        return self.experts.apply(hidden, weights, ids)
