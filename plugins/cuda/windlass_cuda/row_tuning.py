"""How the row kernels are launched: by architecture, and by the width of a row.

A lane moves 16 bytes of a 16-bit dtype at a time, 8 numbers; a row or a tile of heads takes as
many warps as that makes, so that few programs still keep many loads in flight.
"""

from __future__ import annotations

from functools import cache

import triton

from windlass.kernels.triton.launch import LaunchConfig, RowConfig
from windlass.kernels.triton.sampling import SampleConfig
from windlass.kernels.triton.write_kv import HeadConfig
from windlass_cuda.overlap import overlap

_LANES = 32
_PER_LANE = 8
_MANY_TOKENS = 1024


def _warps(numbers: int, largest: int) -> int:
    """Warps for a tile of so many numbers: a power of 2, `largest` at most."""
    wanted: int = triton.next_power_of_2(numbers) // (_LANES * _PER_LANE)
    return min(max(wanted, 1), largest)


@cache
def norm_config(arch: str, size: int) -> LaunchConfig:
    """Norms over rows of `size` numbers, a row a program."""
    return LaunchConfig(num_warps=_warps(size, 16), **overlap(arch))


@cache
def activation_config(arch: str) -> RowConfig:
    """SwiGLU."""
    return RowConfig(block=1024, num_warps=4, **overlap(arch))


@cache
def _head_config(arch: str, dim: int, warps: int) -> HeadConfig:
    heads = max(warps * 2 * _LANES * _PER_LANE // triton.next_power_of_2(dim), 1)
    return HeadConfig(heads=heads, num_warps=warps, **overlap(arch))


def head_config(arch: str, dim: int, tokens: int) -> HeadConfig:
    """Rotation and the cache write: heads of `dim` channels.

    Few tokens want many programs, many tokens larger ones.
    """
    return _head_config(arch, dim, 2 if tokens >= _MANY_TOKENS else 1)


@cache
def step_config(arch: str) -> RowConfig:
    """A decode step's first work, by columns of the block table."""
    return RowConfig(block=1024, num_warps=4, **overlap(arch))


@cache
def sample_config(arch: str) -> SampleConfig:
    """Choosing tokens."""
    return SampleConfig(
        block=4096, group=64, kept=512, num_warps=4, choose_warps=8, **overlap(arch)
    )


@cache
def penalties_config(arch: str) -> RowConfig:
    """Penalties."""
    return RowConfig(block=1024, num_warps=4, **overlap(arch))


@cache
def logprobs_config(arch: str) -> RowConfig:
    """Log-probabilities."""
    return RowConfig(block=4096, num_warps=8, **overlap(arch))
