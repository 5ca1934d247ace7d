"""The ops by Triton kernels, with the signatures of the references: what op providers point to.

They run eagerly in every prefill step, so each does no more than look up its launch configuration.
"""

from __future__ import annotations

from functools import cache

import torch

from windlass.kernels import sampling as reference
from windlass.kernels.triton import (
    activation,
    decode_step,
    logprobs,
    norm,
    sampling,
)
from windlass.kernels.triton import penalties as penalty
from windlass.kernels.triton import (
    rope as rotary,
)
from windlass_cuda import row_tuning


@cache
def device_arch() -> str:
    """The architecture of this process's device, such as "sm_90"."""
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}"


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """`windlass.kernels.reference.rms_norm`."""
    return norm.rms_norm(x, weight, eps, row_tuning.norm_config(device_arch(), x.shape[-1]))


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`windlass.kernels.reference.add_rms_norm`."""
    config = row_tuning.norm_config(device_arch(), x.shape[-1])
    return norm.add_rms_norm(x, residual, weight, eps, config)


def rope(
    query: torch.Tensor, key: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`windlass.kernels.reference.rope`."""
    config = row_tuning.head_config(device_arch(), query.shape[-1], len(query))
    return rotary.rope(query, key, positions, cos_sin, config)


def silu_mul(x: torch.Tensor) -> torch.Tensor:
    """`windlass.kernels.reference.silu_mul`."""
    return activation.silu_mul(x, row_tuning.activation_config(device_arch()))


def begin_decode(
    rows: torch.Tensor,
    last_token: torch.Tensor,
    position: torch.Tensor,
    block_table: torch.Tensor,
    num_columns: int,
    block_size: int,
    slot_dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`windlass.kernels.step.begin_decode`."""
    return decode_step.begin_decode(
        rows,
        last_token,
        position,
        block_table,
        num_columns,
        block_size,
        slot_dtype,
        row_tuning.step_config(device_arch()),
    )


def next_tokens(
    logits: torch.Tensor,
    rows: torch.Tensor,
    last_token: torch.Tensor,
    position: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    seed: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`windlass.kernels.step.next_tokens`."""
    return decode_step.next_tokens(
        logits,
        rows,
        last_token,
        position,
        temperature,
        top_k,
        top_p,
        min_p,
        seed,
        row_tuning.sample_config(device_arch()),
    )


def greedy(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`windlass.kernels.sampling.greedy`."""
    return sampling.greedy(logits, row_tuning.sample_config(device_arch()))


def sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor | None,
    top_p: torch.Tensor | None,
    min_p: torch.Tensor | None,
    seed: torch.Tensor,
    position: torch.Tensor,
) -> torch.Tensor:
    """`windlass.kernels.sampling.sample`."""
    config = row_tuning.sample_config(device_arch())
    return sampling.sample(logits, temperature, top_k, top_p, min_p, seed, position, config)


def penalties(
    logits: torch.Tensor,
    prompt_mask: torch.Tensor,
    output_counts: torch.Tensor,
    repetition: torch.Tensor,
    frequency: torch.Tensor,
    presence: torch.Tensor,
) -> torch.Tensor:
    """`windlass.kernels.sampling.penalties`."""
    return penalty.penalties(
        logits,
        prompt_mask,
        output_counts,
        repetition,
        frequency,
        presence,
        row_tuning.penalties_config(device_arch()),
    )


def token_logprobs(
    logits: torch.Tensor, tokens: torch.Tensor, num_top: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`windlass.kernels.sampling.token_logprobs`."""
    if num_top > logprobs.MAX_TOP:
        return reference.token_logprobs(logits, tokens, num_top)
    config = row_tuning.logprobs_config(device_arch())
    return logprobs.token_logprobs(logits, tokens, num_top, config)
