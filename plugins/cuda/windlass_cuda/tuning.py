"""Which tiles, warps and stages the attention kernels take on which chip, and who prefills.

The loop over tiles looks a block up before it reads it, so a pipeline of 2 n + 1 stages has n tiles
under way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
import triton

from windlass.kernels.triton.decode_plan import DecodeConfig
from windlass.kernels.triton.launch import LaunchConfig
from windlass.kernels.triton.paged_prefill import PrefillConfig
from windlass_cuda.overlap import overlap

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
"""Chips with entries of their own; those after each take its entries, from sm_120 on sm_80's.

So sm_80's must fit the 99 KiB of shared memory of sm_86, sm_89 and sm_120.
"""

_FIRST_SMALL_BLACKWELL = 120

CUDNN_LENGTH_MULTIPLE = 512
"""cuDNN builds a plan for every length, so prompts are padded to a multiple of this."""


@dataclass(frozen=True, kw_only=True)
class PrefillRule:
    """Chunks of `min_query_len` tokens and more go to `provider`.

    `whole_prompt` True: only those without cached tokens before them; False: only those with some.
    """

    provider: str
    whole_prompt: bool
    min_query_len: int
    max_head_dim: int = 256


PREFILL_RULES: dict[str, tuple[PrefillRule, ...]] = {
    "sm_80": (
        PrefillRule(provider="torch_flash", whole_prompt=True, min_query_len=512),
        PrefillRule(provider="torch_flash", whole_prompt=False, min_query_len=512),
    ),
    "sm_90": (
        PrefillRule(provider="cudnn", whole_prompt=True, min_query_len=4096, max_head_dim=128),
    ),
    "sm_100": (
        PrefillRule(provider="cudnn", whole_prompt=True, min_query_len=512, max_head_dim=128),
    ),
}
"""In order of preference; chunks without a rule go to Triton's kernel."""

# (tile, warps, stages, programs a multiprocessor, minimum run) up to so many channels.
_DECODE = {
    "sm_80": {64: (64, 4, 5, 3, 2), 128: (64, 4, 3, 3, 2), 256: (64, 4, 3, 2, 2)},
    "sm_90": {64: (64, 4, 5, 3, 4), 128: (64, 4, 5, 3, 4), 256: (64, 4, 3, 2, 4)},
    "sm_100": {64: (64, 4, 5, 3, 2), 128: (64, 4, 5, 3, 2), 256: (64, 4, 3, 2, 2)},
}
# Two warps have no registers left for padded channels, or to widen fp8.
_DECODE_PLAIN = {"sm_90": {64: (64, 2, 3, 4, 2), 128: (64, 2, 3, 4, 2)}}
"""Heads of exactly so many channels, whose cache is of the model's dtype."""
_DECODE_FLOAT32 = {64: (32, 4, 3, 2, 4), 128: (32, 4, 3, 2, 4), 256: (16, 4, 3, 2, 8)}

# (query rows, tile, warps, stages) up to so many channels.
_PREFILL = {
    "sm_80": {64: (128, 64, 8, 3), 128: (128, 32, 8, 3), 256: (64, 32, 8, 3)},
    "sm_90": {64: (128, 64, 4, 3), 128: (128, 64, 8, 3), 256: (128, 32, 8, 3)},
    "sm_100": {64: (128, 64, 4, 3), 128: (128, 64, 8, 3), 256: (128, 32, 8, 3)},
}
# Products of float32 are no work for tensor cores.
_PREFILL_FLOAT32 = {256: (32, 16, 8, 1)}


def known(arch: str) -> str:
    """The architecture whose entries `arch` ("sm_90") takes."""
    number = int(arch.removeprefix("sm_"))
    if number >= _FIRST_SMALL_BLACKWELL:
        return ARCHITECTURES[0]
    before = [name for name in ARCHITECTURES if int(name.removeprefix("sm_")) <= number]
    return before[-1] if before else ARCHITECTURES[0]


@cache
def decode_config(
    arch: str, head_dim: int, dtype: torch.dtype, kv_dtype: torch.dtype
) -> DecodeConfig:
    """How decodes of heads of `head_dim` are launched: model of `dtype`, cache of `kv_dtype`."""
    if dtype == torch.float32:
        entry = _up_to(_DECODE_FLOAT32, head_dim)
    else:
        plain = _DECODE_PLAIN.get(known(arch), {}) if dtype == kv_dtype else {}
        entry = plain.get(head_dim) or _up_to(_DECODE[known(arch)], head_dim)
    tile, warps, stages, programs, run = entry
    return DecodeConfig(
        tile=tile,
        num_warps=warps,
        num_stages=stages,
        programs_per_unit=programs,
        minimum_run=run,
        **overlap(arch),
    )


@cache
def prefill_config(arch: str, head_dim: int, dtype: torch.dtype, group: int) -> PrefillConfig:
    """How chunks are launched, with `group` query heads of `head_dim` to a key-value head."""
    table = _PREFILL_FLOAT32 if dtype == torch.float32 else _PREFILL[known(arch)]
    rows, tile, warps, stages = _up_to(table, head_dim)
    return PrefillConfig(
        query_rows=max(rows, triton.next_power_of_2(group)),
        tile=tile,
        num_warps=warps,
        num_stages=stages,
        **overlap(arch),
    )


@cache
def gather_config(arch: str) -> LaunchConfig:
    """How the copy out of the cache is launched."""
    return LaunchConfig(num_warps=4, num_stages=1, **overlap(arch))


def prefill_providers(arch: str, head_dim: int, query_len: int, seq_len: int) -> list[str]:
    """Providers for a chunk of `query_len` tokens, the last of `seq_len`, best first."""
    return [
        rule.provider
        for rule in PREFILL_RULES[known(arch)]
        if query_len >= rule.min_query_len
        and head_dim <= rule.max_head_dim
        and rule.whole_prompt == (query_len == seq_len)
    ]


def _up_to(table: Mapping[int, tuple[int, ...]], head_dim: int) -> tuple[int, ...]:
    """The entry of the smallest number of channels that holds `head_dim`."""
    return next(entry for channels, entry in sorted(table.items()) if head_dim <= channels)
