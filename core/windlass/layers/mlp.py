"""The gated feed-forward layer (SwiGLU; Shazeer, 2020)."""

from __future__ import annotations

import torch

from windlass.backend import Linear, OpRegistry


class GatedMLP:
    """`down(silu(gate(x)) * up(x))`, gate and up as one product: `[T, H]` to `[T, H]`."""

    def __init__(self, *, gate_up: Linear, down: Linear, ops: OpRegistry) -> None:
        self.gate_up = gate_up
        self.down = down
        self._silu_mul = ops.silu_mul

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """The layer's output for `hidden` `[T, H]`."""
        return self.down(self._silu_mul(self.gate_up(hidden)))
