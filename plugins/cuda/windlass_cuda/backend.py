"""The CUDA backend: Triton kernels over a head-major KV cache, whole decode steps as graphs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from windlass.backend import BackendConfig, GraphSupport
from windlass.backend.triton.backend import CAPABILITIES, TritonBackend
from windlass.plugin import BackendSpec, OpProvider
from windlass_cuda.allocator import CudaAllocator
from windlass_cuda.device import CudaDevice
from windlass_cuda.torch_prefill import installed_providers


class CudaBackend(TritonBackend):
    """Triton's kernels with NVIDIA's tables; long prompts also by torch's attention."""

    default_capabilities = replace(
        CAPABILITIES, graph=GraphSupport.DECODE_UNIFORM, collectives=("nccl", "gloo")
    )

    def __init__(
        self,
        spec: BackendSpec,
        config: BackendConfig,
        *,
        arch: str = "",
        op_providers: Iterable[OpProvider] = (),
    ) -> None:
        del arch  # the device tells it, and a probe need not
        device = CudaDevice(config.device_index)
        super().__init__(
            spec,
            config,
            device.tuning,
            device,
            op_providers=op_providers,
            prefill_providers=installed_providers(),
        )
        self.allocator = CudaAllocator(device, self.capabilities)
