"""The xpu backend: torch's reference operations on an Intel GPU."""

from __future__ import annotations

from windlass.backend import TorchBackend


class XpuBackend(TorchBackend):
    """Runs the torch reference path on the GPU: correct, not yet fast. There are no kernels of
    its own, and steps are not captured as graphs."""
