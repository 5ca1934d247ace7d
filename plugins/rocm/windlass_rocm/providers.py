"""Which ops the Triton kernels offer; nothing of them is imported here."""

from __future__ import annotations

from windlass.errors import PluginError
from windlass.plugin import OpProvider
from windlass.plugin.triton_ops import triton_op_providers
from windlass_rocm.arch import architecture_of


def op_providers(arch: str) -> tuple[OpProvider, ...]:
    """The ops for a GPU such as "gfx942"; none for one without matrix instructions."""
    try:
        architecture_of(arch)
    except PluginError:
        return ()
    return triton_op_providers("windlass_rocm", "windlass_rocm.ops:OPS")
