"""The ops that aiter offers beside the backend's own. Nothing of it is imported here."""

from __future__ import annotations

from importlib.util import find_spec

from windlass.errors import PluginError
from windlass.plugin import OpProvider
from windlass_rocm.arch import Family, architecture_of

_OPS = ("rms_norm", "add_rms_norm", "silu_mul")
_BELOW_TRITON = 50
"""Nobody has run them: they are taken only by who names them in the setting `ops`."""


def aiter_installed() -> bool:
    """Whether aiter could be imported; it is not."""
    return find_spec("aiter") is not None


def aiter_providers(arch: str) -> tuple[OpProvider, ...]:
    """The ops of an installed aiter for a GPU such as "gfx942": its kernels are for CDNA."""
    try:
        chip = architecture_of(arch)
    except PluginError:
        return ()
    if chip.family is not Family.CDNA:
        return ()
    return tuple(
        OpProvider(
            op=op,
            name="aiter",
            target=f"windlass_rocm.aiter_ops:{op}",
            supports=f"windlass_rocm.aiter_ops:supports_{op}",
            priority=_BELOW_TRITON,
        )
        for op in _OPS
    )
