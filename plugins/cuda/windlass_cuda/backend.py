"""The CUDA backend: Triton kernels over a head-major KV cache, whole decode steps as graphs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch

from windlass.backend import (
    BackendConfig,
    Capabilities,
    GraphSupport,
    KVLayout,
    KVSpec,
    LayerParts,
    LayersFunction,
    TorchBackend,
)
from windlass.backend.triton.attention import TritonAttention
from windlass.backend.triton.layers import fuse_layers
from windlass.plugin import BackendSpec, OpProvider
from windlass_cuda.allocator import CudaAllocator
from windlass_cuda.device import CudaDevice
from windlass_cuda.torch_prefill import installed_providers


class CudaBackend(TorchBackend):
    """Head-major blocks of 64 tokens: one block of a head is one tile of the decode kernel.

    A step takes 8192 tokens unless the user says otherwise: enough to keep the matrix units busy.
    """

    default_capabilities: ClassVar[Capabilities | None] = Capabilities(
        dtypes=(torch.bfloat16, torch.float16, torch.float32),
        preferred_block_size=64,
        preferred_token_budget=8192,
        graph=GraphSupport.DECODE_UNIFORM,
        memory_statistics="exact",
        pinned_host=True,
        asynchronous=True,
        collectives=("nccl", "gloo"),
    )

    def __init__(
        self,
        spec: BackendSpec,
        config: BackendConfig,
        *,
        arch: str = "",
        op_providers: Iterable[OpProvider] = (),
    ) -> None:
        device = CudaDevice(config.device_index)
        device.activate()  # the ops are those of the current GPU
        self.tuning = device.tuning
        super().__init__(spec, config, arch=arch or self.tuning.arch, op_providers=op_providers)
        self.device = device
        self.allocator = CudaAllocator(device, self.capabilities)
        self.attention = TritonAttention(self.tuning, installed_providers())

    def kv_layouts(self, spec: KVSpec) -> Sequence[KVLayout]:
        """A layer's keys of one head lie block after block."""
        del spec
        return (KVLayout(order="LBHNC", block_size=self.capabilities.preferred_block_size),)

    def fuse_layers(
        self, layers: Sequence[LayerParts], by_ops: LayersFunction
    ) -> LayersFunction | None:
        """Six launches a layer for steps of few tokens; the ops for all others."""
        return fuse_layers(layers, by_ops, self.ops, self.tuning)
