"""Experts on Triton kernels, as grouped products."""

from __future__ import annotations

import torch

from windlass.backend.capabilities import SUPPORTED, Support
from windlass.backend.triton.expert_tiles import choose
from windlass.backend.triton.tuning import TritonTuning
from windlass.kernels.experts import PackedExperts
from windlass.kernels.triton.grouped_linear import ExpertsConfig, grouped_experts

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def supports_experts(gate_up: torch.Tensor, tuning: TritonTuning) -> Support:
    """Whether the kernels take the experts: floating-point numbers on the chip."""
    if gate_up.device.type != tuning.device_type or gate_up.dtype not in _DTYPES:
        return Support.no(
            f"the experts are not floating-point numbers on a {tuning.device_type} device"
        )
    return SUPPORTED


class GroupedExperts(PackedExperts):
    """Experts `gate_up` `[E, 2I, H]` and `down` `[E, H, I]` as they are."""

    def __init__(self, gate_up: torch.Tensor, down: torch.Tensor, tuning: TritonTuning) -> None:
        self.gate_up = gate_up.contiguous()
        self.down = down.contiguous()
        self.nbytes = self.gate_up.nbytes + self.down.nbytes
        self._choices = tuning.expert_choices(down.itemsize)
        self._configs: dict[int, ExpertsConfig] = {}

    def apply(self, x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """`x` `[T, H]` through the experts `ids`, weighted: `[T, H]`."""
        tokens = len(x)
        config = self._configs.get(tokens)
        if config is None:
            config = choose(self._choices, tokens, ids.shape[1], len(self.down))
            self._configs[tokens] = config
        return grouped_experts(x.contiguous(), self.gate_up, self.down, weights, ids, config)
