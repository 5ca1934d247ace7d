"""The CPU backend: C++ kernels over a head-major KV cache, torch's operators where they are not
built."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

import torch

from windlass.backend import (
    BackendConfig,
    Capabilities,
    KVLayout,
    KVSpec,
    LayerParts,
    LayersFunction,
    TorchBackend,
)
from windlass.plugin import BackendSpec, OpProvider
from windlass_cpu.allocator import CpuAllocator
from windlass_cpu.attention import BLOCK_MULTIPLE, CpuAttention
from windlass_cpu.built import library_path
from windlass_cpu.layer import FusedLayers, supports_layer
from windlass_cpu.library import set_threads
from windlass_cpu.memory import return_freed_memory
from windlass_cpu.node_binding import bind_to_node

_SMALL_MODEL = 64 << 20
"""Bytes of weights under which a step is so short that waking a second thread costs more than it
brings, and on a busy machine very much more."""


class CpuBackend(TorchBackend):
    """Head-major blocks of 32 tokens: a head's keys in a block lie side by side.

    Without a word from the user weights and KV cache take at most half of the memory that the
    container may use, and the cache at most 4 GiB: a CPU is seldom alone with its memory. On a
    machine of several NUMA nodes each is a device, and the process is bound to the one it uses.
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
        node = bind_to_node(config.device_index)
        if node is not None:
            _use_threads(min(torch.get_num_threads(), len(node.cpus)))
        self.allocator: CpuAllocator = CpuAllocator(self.device, self.capabilities)
        # An order of ops that the user gave must be followed.
        self._fuses = not config.ops
        if library_path() is not None:
            self.attention = CpuAttention(on_step=self.allocator.postpone_prefault)
            self.capabilities = replace(self.capabilities, block_multiple=BLOCK_MULTIPLE)

    def kv_layouts(self, spec: KVSpec) -> Sequence[KVLayout]:
        """Head-major, any block size."""
        del spec
        return (KVLayout(order="LBHNC", block_size=self.capabilities.preferred_block_size),)

    def fuse_layers(
        self, layers: Sequence[LayerParts], by_ops: LayersFunction
    ) -> LayersFunction | None:
        """The kernels' own layers where they take all of them: then for steps of any size."""
        del by_ops
        if not isinstance(self.attention, CpuAttention) or not self._fuses:
            return None
        fused = all(map(supports_layer, layers))
        return FusedLayers(layers, self.attention) if fused else None

    def warmup(self, *, weight_bytes: int) -> None:
        """Run a small model on one thread; touch the cache of a larger one ahead of use."""
        return_freed_memory()
        if weight_bytes < _SMALL_MODEL:
            _use_threads(1)
        elif library_path() is not None:
            self.allocator.prefault()


def _use_threads(count: int) -> None:
    torch.set_num_threads(count)
    if library_path() is not None:
        set_threads(count)
