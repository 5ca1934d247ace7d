"""Which ops the kernel library offers; nothing of it is imported here."""

from __future__ import annotations

from windlass.plugin import OpProvider

_MODULES = {
    "rms_norm": "ops",
    "add_rms_norm": "ops",
    "rope": "ops",
    "silu_mul": "ops",
    "greedy": "sampling",
    "sample": "sampling",
    "token_logprobs": "sampling",
}

OP_PROVIDERS = tuple(
    OpProvider(op=op, name="windlass_cpu", target=f"windlass_cpu.{module}:{op}", priority=100)
    for op, module in _MODULES.items()
)
"""For a host where the kernels were built: each op takes every call, the reference what is rare."""
