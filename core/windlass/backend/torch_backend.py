"""A complete backend for any device that torch can drive; a plugin overrides what it has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from windlass.backend.base import Backend
from windlass.backend.capabilities import Capabilities
from windlass.backend.collectives import TorchCollectives
from windlass.backend.ops import OpRegistry, OwnOp
from windlass.backend.torch_allocator import TorchAllocator
from windlass.backend.torch_attention import TorchAttention
from windlass.backend.torch_device import torch_device
from windlass.config import BackendConfig
from windlass.kernels.reference import REFERENCES
from windlass.plugin.spec import BackendSpec, OpProvider

_HOST = Capabilities(dtypes=(torch.bfloat16, torch.float16, torch.float32), memory_utilization=0.5)
_ACCELERATOR = Capabilities(
    dtypes=(torch.bfloat16, torch.float16, torch.float32),
    memory_statistics="exact",
    pinned_host=True,
    asynchronous=True,
)


class TorchBackend(Backend):
    """Every part defaulted: torch operations on `spec.device_type`.

    A subclass sets `default_capabilities`, gives its ops as `own_ops`, or assigns its own parts
    after `super().__init__`.
    """

    default_capabilities: ClassVar[Capabilities | None] = None

    def __init__(
        self,
        spec: BackendSpec,
        config: BackendConfig,
        *,
        arch: str = "",
        op_providers: Iterable[OpProvider] = (),
        own_ops: Iterable[OwnOp] = (),
    ):
        host = spec.device_type == "cpu"
        self.spec = spec
        self.capabilities = self.default_capabilities or (_HOST if host else _ACCELERATOR)
        self.device = torch_device(spec.device_type, config.device_index)
        self.allocator = TorchAllocator(self.device, self.capabilities)
        self.attention = TorchAttention()
        self.ops = OpRegistry(REFERENCES, op_providers, own=own_ops, arch=arch, order=config.ops)
        self.collectives = TorchCollectives(self.capabilities.collectives[0])
