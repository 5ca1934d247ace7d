"""The CPU backend: C++ kernels over a head-major KV cache, torch's operators where they are not
built."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

import torch

from windlass.backend import BackendConfig, Capabilities, KVLayout, KVSpec, TorchBackend
from windlass.plugin import BackendSpec, OpProvider
from windlass_cpu.allocator import CpuAllocator
from windlass_cpu.library import library_path, set_threads

_SMALL_MODEL = 64 << 20
"""Bytes of weights under which a step is so short that waking a second thread costs more than it
brings, and on a busy machine very much more."""


class CpuBackend(TorchBackend):
    """Head-major blocks of 32 tokens: a head's keys in a block lie side by side.

    Without a word from the user weights and KV cache take at most half of the memory that the
    container may use, and the cache at most 4 GiB: a CPU is seldom alone with its memory.
    """

    default_capabilities: ClassVar[Capabilities | None] = Capabilities(
        dtypes=(torch.bfloat16, torch.float32, torch.float16),
        preferred_block_size=32,
        memory_utilization=0.5,
        default_kv_cache_bytes=4 << 30,
        unified_memory=True,
    )

    def __init__(
        self,
        spec: BackendSpec,
        config: BackendConfig,
        *,
        arch: str = "",
        op_providers: Iterable[OpProvider] = (),
    ) -> None:
        super().__init__(spec, config, arch=arch, op_providers=op_providers)
        self.allocator = CpuAllocator(self.device, self.capabilities)
        if library_path() is not None:
            from windlass_cpu.attention import BLOCK_MULTIPLE, CpuAttention

            self.attention = CpuAttention()
            self.capabilities = replace(self.capabilities, block_multiple=BLOCK_MULTIPLE)

    def kv_layouts(self, spec: KVSpec) -> Sequence[KVLayout]:
        """Head-major, any block size."""
        del spec
        return (KVLayout(order="LBHNC", block_size=self.capabilities.preferred_block_size),)

    def warmup(self, *, weight_bytes: int) -> None:
        """Run a small model on one thread."""
        if weight_bytes < _SMALL_MODEL:
            torch.set_num_threads(1)
            if library_path() is not None:
                set_threads(1)
