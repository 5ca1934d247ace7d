"""What a backend of Triton kernels offers as op providers; nothing of it is imported here."""

from __future__ import annotations

from windlass.plugin.spec import OpProvider

_TAKE_EVERY_CALL = (
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
    "route_experts",
)
"""So no choice is made at each call."""


def triton_op_providers(name: str, target: str, *, priority: int = 100) -> tuple[OpProvider, ...]:
    """All ops of `windlass.backend.triton.ops.TritonOps`.

    `target` is "module:object" of the plugin's `TritonOps`. The providers are called `name`, the
    one that rounds weights `name` with "_quantized" behind it.
    """
    return (
        *(
            OpProvider(op=op, name=name, target=f"{target}.{op}", priority=priority)
            for op in _TAKE_EVERY_CALL
        ),
        *(
            OpProvider(
                op=op,
                name=name + suffix,
                target=f"{target}.{method}",
                supports=f"{target}.supports_{method}",
                priority=priority,
            )
            for op, method, suffix in (
                ("pack_experts", "pack_experts", ""),
                ("pack_weight", "pack_weight", ""),
                ("pack_weight", "round_weight", "_quantized"),
            )
        ),
    )
