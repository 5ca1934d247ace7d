"""One region for the KV cache, activations that cannot fragment, page-locked host memory."""

from __future__ import annotations

import weakref

import torch

from windlass.backend import Capabilities
from windlass.backend.accelerator_allocator import AcceleratorAllocator
from windlass.errors import OutOfMemoryError
from windlass_cuda.device import CudaDevice

_OWN_REGISTRATION = 1 << 20
"""From this size page-locked memory is registered exactly: torch's pool rounds up to powers of 2.
"""


class CudaAllocator(AcceleratorAllocator):
    """Sizes the KV cache by running the largest step; the cache is one region at one address.

    Activations come from torch's allocator in expandable segments: a step of new sizes grows a
    mapping instead of leaving holes between blocks.
    """

    def __init__(self, device: CudaDevice, capabilities: Capabilities) -> None:
        super().__init__(device, capabilities)
        torch._C._accelerator_setAllocatorSettings("expandable_segments:True")

    def host(self, nbytes: int, *, pinned: bool = False) -> torch.Tensor:
        """Zero-filled host memory; page-locked in whole, registered with the driver when large.

        Raises:
            OutOfMemoryError: the driver cannot lock that much.
        """
        if not pinned or nbytes < _OWN_REGISTRATION:
            return super().host(nbytes, pinned=pinned)
        buffer = torch.zeros(nbytes, dtype=torch.uint8)
        runtime, address = torch.cuda.cudart(), buffer.data_ptr()
        if int(runtime.cudaHostRegister(address, nbytes, 0)):
            raise OutOfMemoryError(
                f"page-locking {nbytes / (1 << 30):.2f} GiB of host memory failed: the limit is "
                "the memory that may be locked (ulimit -l)"
            )
        weakref.finalize(buffer.untyped_storage(), runtime.cudaHostUnregister, address)
        return buffer
