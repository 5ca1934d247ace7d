"""A whole backend of the Triton kernels: a plugin adds its chip's tables and its device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch

from windlass.backend.accelerator_allocator import AcceleratorAllocator
from windlass.backend.capabilities import Capabilities
from windlass.backend.device import Device
from windlass.backend.kv_cache import KVLayout, KVSpec
from windlass.backend.layer import LayerParts, LayersFunction
from windlass.backend.torch_backend import TorchBackend
from windlass.backend.triton.attention import TritonAttention
from windlass.backend.triton.layers import fuse_layers
from windlass.backend.triton.ops import TritonOps
from windlass.backend.triton.prefill_providers import PrefillProvider
from windlass.backend.triton.tuning import TritonTuning
from windlass.config import BackendConfig
from windlass.plugin.spec import BackendSpec, OpProvider

CAPABILITIES = Capabilities(
    dtypes=(torch.bfloat16, torch.float16, torch.float32),
    preferred_block_size=64,
    preferred_token_budget=8192,
    memory_statistics="exact",
    pinned_host=True,
    asynchronous=True,
)
"""Of a backend that runs these kernels on an accelerator; a plugin adds graphs and collectives."""


class TritonBackend(TorchBackend):
    """Head-major blocks of 64 tokens: one block of a head is one tile of the decode kernel.

    A step takes 8192 tokens unless the user says otherwise: enough to keep matrix units busy.
    `prefill_providers` are those that the rules of `tuning` may name.
    """

    default_capabilities: ClassVar[Capabilities | None] = CAPABILITIES

    def __init__(
        self,
        spec: BackendSpec,
        config: BackendConfig,
        tuning: TritonTuning,
        device: Device,
        *,
        op_providers: Iterable[OpProvider] = (),
        prefill_providers: Mapping[str, PrefillProvider] | None = None,
    ) -> None:
        own_ops = TritonOps(tuning).own_ops() if tuning.has_ops else ()
        super().__init__(spec, config, arch=tuning.arch, op_providers=op_providers, own_ops=own_ops)
        self.capabilities = replace(self.capabilities, fp8_dtype=tuning.fp8_dtype)
        self.tuning = tuning
        self.device = device
        self.allocator = AcceleratorAllocator(device, self.capabilities)
        self.attention = TritonAttention(tuning, prefill_providers)

    def kv_layouts(self, spec: KVSpec) -> Sequence[KVLayout]:
        """A layer's keys of one head lie block after block."""
        del spec
        return (KVLayout(order="LBHNC", block_size=self.capabilities.preferred_block_size),)

    def fuse_layers(
        self, layers: Sequence[LayerParts], by_ops: LayersFunction
    ) -> LayersFunction | None:
        """Six launches a layer for steps of few tokens; the ops for all others."""
        return fuse_layers(layers, by_ops, self.ops, self.tuning)
