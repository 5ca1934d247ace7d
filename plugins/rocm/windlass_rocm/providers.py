"""Which ops the plugin offers: Triton kernels, and aiter's. Nothing of either is imported here."""

from __future__ import annotations

from importlib.util import find_spec

from windlass.errors import PluginError
from windlass.plugin import OpProvider
from windlass.plugin.triton_ops import triton_op_providers
from windlass_rocm.arch import Family, architecture_of

_AITER_OPS = ("rms_norm", "add_rms_norm", "silu_mul")
_BELOW_TRITON = 50
"""Nobody has run them: they are taken only by who names them in the setting `ops`."""


def aiter_installed() -> bool:
    """Whether aiter could be imported; it is not."""
    return find_spec("aiter") is not None


def op_providers(arch: str, *, aiter: bool) -> tuple[OpProvider, ...]:
    """The ops for a GPU such as "gfx942"; none for one without matrix instructions.

    `aiter` says that it is installed; its kernels are for CDNA.
    """
    try:
        chip = architecture_of(arch)
    except PluginError:
        return ()
    ours = triton_op_providers("windlass_rocm", "windlass_rocm.ops:OPS")
    return ours + _AITER if aiter and chip.family is Family.CDNA else ours


_AITER = tuple(
    OpProvider(
        op=op,
        name="aiter",
        target=f"windlass_rocm.aiter_ops:{op}",
        supports=f"windlass_rocm.aiter_ops:supports_{op}",
        priority=_BELOW_TRITON,
    )
    for op in _AITER_OPS
)
