"""Which ops the Triton kernels offer; nothing of them is imported here."""

from __future__ import annotations

from windlass.plugin import OpProvider
from windlass.plugin.triton_ops import triton_op_providers

_OLDEST = 80


def op_providers(arch: str) -> tuple[OpProvider, ...]:
    """The ops for an architecture such as "sm_90"; none for chips older than sm_80.

    A MIG instance does not tell its architecture: only newer chips have those.
    """
    if arch and int(arch.removeprefix("sm_")) < _OLDEST:
        return ()
    return triton_op_providers("windlass_cuda", "windlass_cuda.ops:OPS")
