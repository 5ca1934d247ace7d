"""The xpu backend: Triton kernels over a head-major KV cache on an Intel GPU."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
import torch.distributed as dist

from windlass.backend import (
    BackendConfig,
    Capabilities,
    GraphSupport,
    TorchAllocator,
    TorchCollectives,
)
from windlass.backend.accelerator_allocator import AcceleratorAllocator
from windlass.backend.triton.backend import CAPABILITIES, TritonBackend
from windlass.plugin import BackendSpec, OpProvider
from windlass_xpu.device import XpuDevice, graph_support


class XpuBackend(TritonBackend):
    """The Triton backend with Intel's tables, on what the GPU and this torch have.

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
        del arch  # the device tells its own
        device = XpuDevice(config.device_index)
        super().__init__(spec, config, device.tuning, device, op_providers=op_providers)
        graph = graph_support(torch.__version__)
        self.capabilities = capabilities(
            integrated=device.integrated,
            has_bfloat16=device.has_bfloat16,
            has_xccl=dist.is_xccl_available(),
            graph=graph,
        )
        allocator = AcceleratorAllocator if graph else TorchAllocator
        self.allocator = allocator(device, self.capabilities)
        self.collectives = TorchCollectives(self.capabilities.collectives[0])


def capabilities(
    *, integrated: bool, has_bfloat16: bool, has_xccl: bool, graph: GraphSupport
) -> Capabilities:
    """Facts about a GPU with these properties, in a torch with these parts.

    Without xccl several GPUs of one model have only gloo, which torch gives no XPU tensors.
    """
    halves = (torch.bfloat16, torch.float16) if has_bfloat16 else (torch.float16,)
    found = replace(
        CAPABILITIES,
        dtypes=(*halves, torch.float32),
        graph=graph,
        collectives=("xccl", "gloo") if has_xccl else ("gloo",),
    )
    if not integrated:
        return found
    return replace(
        found,
        preferred_token_budget=2048,
        memory_utilization=0.5,
        default_kv_cache_bytes=4 << 30,
        unified_memory=True,
    )
