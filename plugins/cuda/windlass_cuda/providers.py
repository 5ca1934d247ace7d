"""Which ops the Triton kernels offer; nothing of them is imported here."""

from __future__ import annotations

from windlass.plugin import OpProvider

_OPS = (
    "rms_norm",
    "add_rms_norm",
    "rope",
    "silu_mul",
    "begin_decode",
    "next_tokens",
    "greedy",
    "sample",
    "penalties",
    "token_logprobs",
)
_OLDEST = 80

OP_PROVIDERS = (
    *(
        OpProvider(op=op, name="windlass_cuda", target=f"windlass_cuda.ops:{op}", priority=100)
        for op in _OPS
    ),
    OpProvider(
        op="route_experts",
        name="windlass_cuda",
        target="windlass_cuda.experts:route_experts",
        priority=100,
    ),
    OpProvider(
        op="pack_experts",
        name="windlass_cuda",
        target="windlass_cuda.experts:pack_experts",
        supports="windlass_cuda.experts:supports_pack_experts",
        priority=100,
    ),
    OpProvider(
        op="pack_weight",
        name="windlass_cuda",
        target="windlass_cuda.linear:pack_weight",
        supports="windlass_cuda.linear:supports_pack_weight",
        priority=100,
    ),
    OpProvider(
        op="pack_weight",
        name="windlass_cuda_quantized",
        target="windlass_cuda.quantized:pack_weight",
        supports="windlass_cuda.quantized:supports_pack_weight",
        priority=100,
    ),
)
"""All but those that pack weights take every call, so no choice is made at each call."""


def op_providers(arch: str) -> tuple[OpProvider, ...]:
    """The ops for an architecture such as "sm_90"; none for chips older than sm_80.

    A MIG instance does not tell its architecture: only newer chips have those.
    """
    if arch and int(arch.removeprefix("sm_")) < _OLDEST:
        return ()
    return OP_PROVIDERS
