"""Memory of the KV cache on the host."""

from __future__ import annotations

import torch

from windlass.backend import Capabilities, Device, TorchAllocator
from windlass_cpu.memory import Prefault, map_memory


class CpuAllocator(TorchAllocator):
    """Maps anonymous memory: reserving gigabytes takes no time, and unused blocks no memory."""

    def __init__(self, device: Device, capabilities: Capabilities) -> None:
        super().__init__(device, capabilities)
        self._prefaults: dict[str, Prefault] = {}

    def allocate(self, nbytes: int) -> torch.Tensor:
        """Zero-filled uint8 `[nbytes]`, on huge pages where the system has them to give."""
        return map_memory(nbytes)

    def prefault(self) -> None:
        """Start touching what is reserved, in the background."""
        for tag, memory in self._reserved.items():
            self._prefaults[tag] = Prefault(memory)

    def postpone_prefault(self) -> None:
        """Let a step run undisturbed."""
        for prefault in self._prefaults.values():
            prefault.postpone()

    def release(self, tag: str) -> None:
        """Drop the buffer."""
        prefault = self._prefaults.pop(tag, None)
        if prefault is not None:
            prefault.stop()
        super().release(tag)
