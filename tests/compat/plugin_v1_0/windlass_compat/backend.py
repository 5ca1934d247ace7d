"""Imported when the backend was selected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
from windlass_compat.attention import CompatAttention


class CompatBackend(TorchBackend):
    """Torch on the processor, with attention and a layout of its own."""

    default_capabilities = Capabilities(
        dtypes=(torch.bfloat16, torch.float16, torch.float32),
        preferred_block_size=32,
        memory_utilization=0.5,
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
        self.attention = CompatAttention()

    def kv_layouts(self, spec: KVSpec) -> Sequence[KVLayout]:
        """Head by head, or token by token."""
        del spec
        size = self.capabilities.preferred_block_size
        return (KVLayout(order="LBHNC", block_size=size), KVLayout(block_size=size))

    def fuse_layers(
        self, layers: Sequence[LayerParts], by_ops: LayersFunction
    ) -> LayersFunction | None:
        """Nothing is fused."""
        del layers, by_ops
        return None
