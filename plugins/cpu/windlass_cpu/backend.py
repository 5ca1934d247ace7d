"""The CPU backend: torch's operators over a head-major KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from windlass.backend import Capabilities, KVLayout, KVSpec, TorchBackend

_SMALL_MODEL = 64 << 20
"""Bytes of weights under which a step is so short that waking a second thread costs more than it
brings, and on a busy machine very much more."""


class CpuBackend(TorchBackend):
    """Head-major blocks of 32 tokens: a head's keys in a block lie side by side.

    Half of the memory that the container may use goes to weights and KV cache by default: a CPU
    is seldom alone with its memory.
    """

    default_capabilities: ClassVar[Capabilities | None] = Capabilities(
        dtypes=(torch.bfloat16, torch.float32, torch.float16),
        preferred_block_size=32,
        memory_utilization=0.5,
        unified_memory=True,
    )

    def kv_layouts(self, spec: KVSpec) -> Sequence[KVLayout]:
        """Head-major, any block size."""
        del spec
        return (KVLayout(order="LBHNC", block_size=self.capabilities.preferred_block_size),)

    def warmup(self, *, weight_bytes: int) -> None:
        """Run a small model on one thread."""
        if weight_bytes < _SMALL_MODEL:
            torch.set_num_threads(1)
