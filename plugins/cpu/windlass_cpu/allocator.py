"""Host memory for the KV cache: pages straight from the kernel, filled with zeros when touched."""

from __future__ import annotations

import mmap

import torch

from windlass.backend import TorchAllocator


class CpuAllocator(TorchAllocator):
    """Maps anonymous memory: reserving gigabytes takes no time, and unused blocks no memory."""

    def allocate(self, nbytes: int) -> torch.Tensor:
        """Zero-filled uint8 `[nbytes]`, in huge pages where the system has them to give."""
        pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)
        return torch.frombuffer(pages, dtype=torch.uint8)
