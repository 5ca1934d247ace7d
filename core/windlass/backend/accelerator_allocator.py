"""Memory of an accelerator whose decode steps are captured as graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from windlass.backend.allocator import Profile
from windlass.backend.torch_allocator import TorchAllocator

_GRAPHS = 512 << 20
"""Bytes kept for the code and parameters of captured graphs, some 40 of a few hundred kernels."""


class AcceleratorAllocator(TorchAllocator):
    """The torch allocator, with room left for graphs beside the measured step."""

    def measure(
        self, step: Callable[[], None], *, weights: int, activation_estimate: int
    ) -> Profile:
        """The measured peak, and what graphs of decode steps will take beside it.

        The graphs' own pool holds the tensors of the largest decode step, whose logits dominate;
        a quarter of the estimate for the largest step is more.
        """
        profile = super().measure(step, weights=weights, activation_estimate=activation_estimate)
        return replace(profile, graph_estimate=_GRAPHS + activation_estimate // 4)
