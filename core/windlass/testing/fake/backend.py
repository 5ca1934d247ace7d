"""The fake backend: everything that the contract has, on a machine that checks its user."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from windlass.backend import (
    BackendConfig,
    Capabilities,
    GraphSupport,
    OpRegistry,
    TorchBackend,
)
from windlass.kernels.reference import REFERENCES
from windlass.plugin import BackendSpec, OpProvider
from windlass.testing.fake.collectives import FakeCollectives
from windlass.testing.fake.device import FakeDevice
from windlass.testing.fake.kv_cache import FakeAllocator, FakeAttention, PoolRecords
from windlass.testing.fake.machine import Machine
from windlass.testing.fake.plugin import SPEC


class FakeBackend(TorchBackend):
    """Streams, graphs, exact memory; the ops are torch's references.

    `machine` is what it runs on, to be told how to behave; a new backend configures it anew.
    """

    default_capabilities: ClassVar[Capabilities | None] = Capabilities(
        dtypes=(torch.float32, torch.bfloat16),
        graph=GraphSupport.DECODE_UNIFORM,
        memory_statistics="exact",
        default_kv_cache_bytes=64 << 20,
        asynchronous=True,
    )

    def __init__(
        self,
        spec: BackendSpec = SPEC,
        config: BackendConfig | None = None,
        *,
        arch: str = "",
        op_providers: Iterable[OpProvider] = (),
    ) -> None:
        config = config or BackendConfig()
        device = FakeDevice(config.device_index)
        assert self.default_capabilities is not None
        self.spec = spec
        self.capabilities = self.default_capabilities
        self.device = device
        self.machine: Machine = device.machine
        self.machine.configure()
        self.records = PoolRecords(self.machine)
        self.allocator = FakeAllocator(device, self.capabilities, self.records)
        self.attention = FakeAttention(self.records)
        self.ops = OpRegistry(REFERENCES, op_providers, arch=arch, order=config.ops)
        self.collectives = FakeCollectives(self.capabilities.collectives[0])
