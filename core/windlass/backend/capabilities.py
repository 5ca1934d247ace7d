"""What a backend can do, as data that is read before anything is constructed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import torch


@dataclass(frozen=True)
class Support:
    """Yes, or no with a reason that a person can read. Truthy when supported."""

    reason: str = ""

    def __bool__(self) -> bool:
        return not self.reason

    @classmethod
    def no(cls, reason: str) -> Support:
        """Not supported, because of `reason`."""
        return cls(reason)


SUPPORTED = Support()


class GraphSupport(IntEnum):
    """Which steps a backend can capture as a graph; each level includes those before it."""

    NONE = 0
    DECODE_1 = 1
    DECODE_UNIFORM = 2
    MIXED = 3


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """Facts about a backend; every default is the conservative answer.

    `attention` may hold "gqa", "window", "softcap", "sinks", "lse", "mla".
    `block_multiple` divides every block size; `asynchronous` says that kernels run on the device
    while the host goes on; `memory_statistics` says how far `Device.memory` can be trusted.
    `preferred_token_budget` is the default of `max_num_batched_tokens`: enough tokens in a step to
    keep the device busy. `memory_utilization` is the default share of memory that weights and KV
    cache may use; `default_kv_cache_bytes` (0: none) bounds the KV cache of a user who asked for no
    share, but never below one sequence of full length. `fp8_dtype` is what a KV cache holds when it
    is asked for as "fp8": the e4m3 format that the device converts.
    """

    dtypes: tuple[torch.dtype, ...] = (torch.float32,)
    attention: frozenset[str] = frozenset({"gqa", "window", "softcap", "sinks", "lse"})
    head_dims: tuple[int, ...] = ()
    block_multiple: int = 1
    preferred_block_size: int = 16
    preferred_token_budget: int = 2048
    graph: GraphSupport = GraphSupport.NONE
    memory_statistics: Literal["exact", "coarse", "none"] = "none"
    memory_utilization: float = 0.9
    default_kv_cache_bytes: int = 0
    fp8_dtype: torch.dtype = torch.float8_e4m3fn
    unified_memory: bool = False
    pinned_host: bool = False
    asynchronous: bool = False
    collectives: tuple[str, ...] = ("gloo",)

    def missing_for(
        self, *, dtype: torch.dtype, head_dim: int, features: frozenset[str]
    ) -> list[str]:
        """Reasons why a model with these needs cannot run; empty when it can."""
        reasons = []
        if dtype not in self.dtypes:
            known = ", ".join(str(d).removeprefix("torch.") for d in self.dtypes)
            reasons.append(f"dtype {str(dtype).removeprefix('torch.')} (it has {known})")
        if self.head_dims and head_dim not in self.head_dims:
            reasons.append(f"head size {head_dim} (it has {', '.join(map(str, self.head_dims))})")
        reasons += [f"attention feature {name!r}" for name in sorted(features - self.attention)]
        return reasons
