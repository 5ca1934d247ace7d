"""A sparse feed-forward layer: each token goes to the few experts that its router prefers.

Shazeer et al., "Outrageously Large Neural Networks", 2017; in this form (softmax, then the k
largest) Jiang et al., "Mixtral of Experts", 2024. T tokens, E experts, k experts of a token,
H hidden size, I intermediate size of an expert.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F

from windlass.config import Quantization
from windlass.errors import UnsupportedError


def route_experts(
    router_logits: torch.Tensor, top_k: int, renormalize: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `top_k` most probable experts of each token, and their weights.

    `router_logits` `[T, E]` of the model's dtype; the softmax is over all experts, in float32.
    Returns weights float32 `[T, k]`, which sum to 1 with `renormalize`, and ids int32 `[T, k]`,
    all different within a token.
    """
    probabilities = router_logits.softmax(dim=-1, dtype=torch.float32)
    weights, ids = probabilities.topk(top_k, dim=-1)
    if renormalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights, ids.to(torch.int32)


class PackedExperts(ABC):
    """The experts of one layer in the form that their provider multiplies fastest."""

    nbytes: int

    @abstractmethod
    def apply(self, x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """The weighted sum of `down(silu(gate(x)) * up(x))` over each token's experts.

        `x` `[T, H]` of the model's dtype; `weights` float32 and `ids` int32 `[T, k]` as
        `route_experts` gives them. Returns `[T, H]`.
        """


class DenseExperts(PackedExperts):
    """The weights as they are: `gate_up` `[E, 2I, H]`, gates first, and `down` `[E, H, I]`."""

    def __init__(self, gate_up: torch.Tensor, down: torch.Tensor) -> None:
        self.gate_up = gate_up
        self.down = down
        self.nbytes = gate_up.nbytes + down.nbytes

    def apply(self, x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Expert after expert, summed in the dtype of `weights`."""
        # On the host an expert gets only the tokens that chose it; a device would have to be
        # waited for to know them.
        on_host = x.device.type == "cpu"
        return (self.sum_over_chosen if on_host else self.sum_over_all)(x, weights, ids)

    def sum_over_chosen(
        self, x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor
    ) -> torch.Tensor:
        """As `apply`, each expert over the tokens that chose it."""
        out = torch.zeros(x.shape, dtype=weights.dtype, device=x.device)
        for expert in sorted(set(ids.flatten().tolist())):
            tokens, choice = (ids == expert).nonzero(as_tuple=True)
            part = self._expert(expert, x[tokens]) * weights[tokens, choice, None]
            out.index_add_(0, tokens, part)
        return out.to(x.dtype)

    def sum_over_all(
        self, x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor
    ) -> torch.Tensor:
        """As `apply`, each expert over all tokens: wasteful, but the host need not know `ids`."""
        out = torch.zeros(x.shape, dtype=weights.dtype, device=x.device)
        for expert in range(len(self.gate_up)):
            chosen = ids == expert
            part = self._expert(expert, x) * (weights * chosen).sum(dim=1, keepdim=True)
            out += torch.where(chosen.any(dim=1, keepdim=True), part, 0.0)
        return out.to(x.dtype)

    def _expert(self, expert: int, x: torch.Tensor) -> torch.Tensor:
        gate, up = F.linear(x, self.gate_up[expert]).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, self.down[expert])


def pack_experts(
    gate_up: torch.Tensor, down: torch.Tensor, quantization: Quantization | None = None
) -> PackedExperts:
    """Experts `gate_up` `[E, 2I, H]` (gates first) and `down` `[E, H, I]` for products to come.

    The caller gives the tensors away.

    Raises:
        UnsupportedError: experts shall be rounded.
    """
    if quantization is not None:
        raise UnsupportedError(
            f"quantization {quantization!r} is not supported for models with experts; leave the "
            f"field quantization unset"
        )
    return DenseExperts(gate_up, down)
