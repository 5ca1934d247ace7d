"""The xpu backend: Triton kernels over a head-major KV cache on an Intel GPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist

from windlass.backend import (
    BackendConfig,
    Capabilities,
    GraphSupport,
    KVLayout,
    KVSpec,
    LayerParts,
    LayersFunction,
    TorchAllocator,
    TorchBackend,
    TorchCollectives,
)
from windlass.backend.accelerator_allocator import AcceleratorAllocator
from windlass.backend.triton.attention import TritonAttention
from windlass.backend.triton.layers import fuse_layers
from windlass.plugin import BackendSpec, OpProvider
from windlass_xpu.device import XpuDevice, graph_support


class XpuBackend(TorchBackend):
    """Head-major blocks of 64 tokens: a tile of keys is one dense piece of memory.

    An integrated GPU shares the machine's memory: without a word from the user the model takes at
    most half of it, and the KV cache at most 4 GiB.
    """

    def __init__(
        self,
        spec: BackendSpec,
        config: BackendConfig,
        *,
        arch: str = "",
        op_providers: Iterable[OpProvider] = (),
    ) -> None:
        device = XpuDevice(config.device_index)
        device.activate()  # the ops are those of the current GPU
        self.tuning = device.tuning
        super().__init__(spec, config, arch=arch or self.tuning.arch, op_providers=op_providers)
        graph = graph_support(torch.__version__)
        self.capabilities = capabilities(
            integrated=device.integrated,
            has_bfloat16=device.has_bfloat16,
            has_xccl=dist.is_xccl_available(),
            graph=graph,
        )
        self.device = device
        allocator = AcceleratorAllocator if graph else TorchAllocator
        self.allocator = allocator(device, self.capabilities)
        self.attention = TritonAttention(self.tuning)
        self.collectives = TorchCollectives(self.capabilities.collectives[0])

    def kv_layouts(self, spec: KVSpec) -> Sequence[KVLayout]:
        """A layer's keys of one head lie block after block."""
        del spec
        return (KVLayout(order="LBHNC", block_size=self.capabilities.preferred_block_size),)

    def fuse_layers(
        self, layers: Sequence[LayerParts], by_ops: LayersFunction
    ) -> LayersFunction | None:
        """Six launches a layer for steps of few tokens; the ops for all others."""
        return fuse_layers(layers, by_ops, self.ops, self.tuning)


def capabilities(
    *, integrated: bool, has_bfloat16: bool, has_xccl: bool, graph: GraphSupport
) -> Capabilities:
    """Facts about a GPU with these properties, in a torch with these parts.

    Without xccl several GPUs of one model have only gloo, which torch gives no XPU tensors.
    """
    halves = (torch.bfloat16, torch.float16) if has_bfloat16 else (torch.float16,)
    return Capabilities(
        dtypes=(*halves, torch.float32),
        preferred_block_size=64,
        preferred_token_budget=2048 if integrated else 8192,
        graph=graph,
        memory_statistics="exact",
        memory_utilization=0.5 if integrated else 0.9,
        default_kv_cache_bytes=4 << 30 if integrated else 0,
        unified_memory=integrated,
        pinned_host=True,
        asynchronous=True,
        collectives=("xccl", "gloo") if has_xccl else ("gloo",),
    )
