"""The ROCm backend: Triton kernels over a head-major KV cache, whole decode steps as graphs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

from windlass.backend import BackendConfig, Capabilities, GraphSupport, KVLayout, KVSpec
from windlass.backend.triton.backend import CAPABILITIES, TritonBackend
from windlass.plugin import BackendSpec, OpProvider
from windlass_rocm.aiter_attention import BLOCK_SIZE
from windlass_rocm.allocator import RocmAllocator
from windlass_rocm.arch import Family
from windlass_rocm.attention import RocmAttention
from windlass_rocm.device import RocmDevice
from windlass_rocm.packed_layout import PackedKVLayout
from windlass_rocm.providers import aiter_installed


class RocmBackend(TritonBackend):
    """The Triton backend with AMD's tables; an fp8 cache is of the chip's own format.

    Memory statistics are coarse, so the KV cache leaves a margin (`RocmAllocator`). Where aiter is
    installed, the setting `block_size` 16 packs the cache for its paged attention.
    """

    default_capabilities: ClassVar[Capabilities | None] = replace(
        CAPABILITIES,
        graph=GraphSupport.DECODE_UNIFORM,
        memory_statistics="coarse",
        collectives=("nccl", "gloo"),  # torch calls RCCL so
    )

    def __init__(
        self,
        spec: BackendSpec,
        config: BackendConfig,
        *,
        arch: str = "",
        op_providers: Iterable[OpProvider] = (),
    ) -> None:
        del arch  # the device tells its own
        device = RocmDevice(config.device_index)
        super().__init__(spec, config, device.tuning, device, op_providers=op_providers)
        self.allocator = RocmAllocator(device, self.capabilities)
        self._packs = aiter_installed() and device.tuning.chip.family is Family.CDNA
        self.attention = RocmAttention(device.tuning, aiter_installed=self._packs)

    def kv_layouts(self, spec: KVSpec) -> Sequence[KVLayout]:
        """The Triton kernels' layout; where aiter can be used, also the one that it reads."""
        layouts = super().kv_layouts(spec)
        if self._packs and PackedKVLayout.supports(spec):
            return (*layouts, PackedKVLayout(block_size=BLOCK_SIZE))
        return layouts
