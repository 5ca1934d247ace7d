"""The kernels of `windlass.backend.triton` without their chip: compiled for it, or interpreted."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

import torch

from windlass.backend import BackendConfig, HostDevice, Support, TorchAllocator
from windlass.backend.triton.backend import CAPABILITIES, TritonBackend
from windlass.backend.triton.kernel_specs import kernel_specs
from windlass.backend.triton.launch_arguments import LaunchArguments
from windlass.backend.triton.tuning import TritonTuning
from windlass.errors import PluginError
from windlass.kernels.triton.launch import KernelSpec
from windlass.kernels.triton.quantized_linear import unpacked
from windlass.plugin.spec import BackendSpec
from windlass.testing.offline import KernelTables, OfflineKernels, Target, kernel_tables

_INTERPRETED_UNITS = 4
"""Programs run one after the other here, so decodes are cut up for a chip of few units."""


class TritonTables(KernelTables):
    """A plugin's tables for all kernels: enough to interpret them."""

    @abstractmethod
    def tuning(self, arch: str, units: int, device_type: str) -> TritonTuning:
        """The tables of an architecture for tensors of torch's `device_type`."""


class TritonKernels(TritonTables, OfflineKernels):
    """All kernels with a plugin's tables, for a chip whose compiler comes with Triton.

    `backend` is Triton's name of the compiler, `units` those of a chip whose tables are compiled:
    with them change only the splits of a product.
    """

    backend: str
    units: int

    def target(self, arch: str) -> Target:
        """The architecture's name is Triton's too, unless a plugin says otherwise."""
        return (self.backend, arch, self.compiled_tuning(arch).lanes)

    def specs(self, arch: str) -> list[KernelSpec]:
        """Every entry of the chip's tables."""
        return kernel_specs(self.compiled_tuning(arch))

    def compiled_tuning(self, arch: str) -> TritonTuning:
        """The tables as the compiler is to take them."""
        return self.tuning(arch, self.units, "meta")


class InterpretedBackend(TritonBackend):
    """A chip's tables on the host: Triton interprets the kernels, in float32 and float16.

    The process must have been started with TRITON_INTERPRET=1. bfloat16 is left out: the
    interpreter computes with its bits as integers.
    """

    default_capabilities = replace(
        CAPABILITIES,
        dtypes=(torch.float32, torch.float16),
        memory_statistics="none",
        pinned_host=False,
        asynchronous=False,
    )


def interpreted_backend(
    offline: str, arch: str, config: BackendConfig | None = None
) -> InterpretedBackend:
    """A backend with the tables that `offline` (`BackendSpec.offline`) has for `arch`.

    Raises:
        PluginError: there are no tables for this architecture.
    """
    tables = kernel_tables(offline)
    if not isinstance(tables, TritonTables):
        raise PluginError(f"{offline} is no TritonTables: there are no tables to interpret")
    if arch not in tables.architectures:
        raise PluginError(f"no tables for {arch!r}; there are: {', '.join(tables.architectures)}")
    return interpreted(tables.tuning(arch, _INTERPRETED_UNITS, "cpu"), config or BackendConfig())


def interpreted(tuning: TritonTuning, config: BackendConfig) -> InterpretedBackend:
    """A backend that runs `tuning`, made for tensors on the host, in Triton's interpreter.

    What only a chip can do is left out of `tuning`: launches that overlap, a chip's instructions,
    a cache of another dtype than the model's.
    """
    vars(tuning).update(launch_arguments=LaunchArguments, unpack=unpacked, supports_kv=_supports_kv)
    device = HostDevice()
    backend = InterpretedBackend(
        BackendSpec(name="interpreted", target="", device_type="cpu", priority=0),
        config,
        tuning,
        device,
    )
    backend.allocator = TorchAllocator(device, backend.capabilities)
    return backend


def _supports_kv(dtype: torch.dtype) -> Support:
    return Support.no(f"Triton's interpreter loses the carry when it rounds to {dtype}")
