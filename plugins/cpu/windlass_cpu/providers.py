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
    "begin_decode": "step",
}

OP_PROVIDERS = (
    OpProvider(
        op="pack_weight",
        name="windlass_cpu",
        target="windlass_cpu.linear:pack_weight",
        supports="windlass_cpu.linear:supports_pack_weight",
        priority=100,
    ),
    *(
        OpProvider(op=op, name="windlass_cpu", target=f"windlass_cpu.{module}:{op}", priority=100)
        for op, module in _MODULES.items()
    ),
)
"""For a host where the kernels were built. All but `pack_weight` take every call, and leave to the
reference what is rare; so no choice is made at each call."""
