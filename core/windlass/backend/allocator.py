"""Memory of one device: measuring, sizing and reserving the KV cache, moving its blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from windlass.backend.device import Event, Stream
from windlass.backend.kv_cache import KVPool


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a model needs besides the KV cache, in bytes."""

    weights: int
    peak_activation: int
    non_torch: int = 0
    graph_estimate: int = 0
    confidence: Literal["measured", "estimated"] = "estimated"


@dataclass(frozen=True, kw_only=True)
class MemoryPolicy:
    """How much memory may be used: a share of the total, and a cap in bytes (0: none)."""

    utilization: float
    cap_bytes: int = 0


class Allocator(ABC):
    """Sizes and reserves device memory. One byte buffer a pool; the core carves views."""

    @abstractmethod
    def measure(
        self, step: Callable[[], None], *, weights: int, activation_estimate: int
    ) -> Profile:
        """Run the largest step and report what it took.

        A backend whose statistics are "none" does not call `step` and returns the estimate.
        """

    @abstractmethod
    def kv_budget(self, profile: Profile, policy: MemoryPolicy) -> int:
        """Bytes left for the KV cache; 0 or less when the model alone is too large."""

    @abstractmethod
    def reserve(self, nbytes: int, *, align: int = 256, tag: str) -> torch.Tensor:
        """Reserve a zero-filled uint8 `[nbytes]` at a stable address.

        Raises:
            OutOfMemoryError: it does not fit; names the bytes asked for and available.
        """

    @abstractmethod
    def release(self, tag: str) -> None:
        """Give back what was reserved under `tag`."""

    @abstractmethod
    def host(self, nbytes: int, *, pinned: bool = False) -> torch.Tensor:
        """A uint8 `[nbytes]` in host memory, page-locked when asked for and possible."""

    @abstractmethod
    def copy_blocks(self, pools: Sequence[KVPool], pairs: torch.Tensor) -> None:
        """Copy blocks inside each pool; `pairs` is int64 `[n, 2]` of (source, destination)."""

    @abstractmethod
    def zero_blocks(self, pools: Sequence[KVPool], block_ids: torch.Tensor) -> None:
        """Fill blocks (int64 `[n]`) of each pool with zeros."""

    @abstractmethod
    def swap(
        self, source: KVPool, destination: KVPool, pairs: torch.Tensor, stream: Stream
    ) -> Event:
        """Copy blocks between a device pool and a host pool on `stream`.

        `pairs` int64 `[n, 2]` as in `copy_blocks`.
        """
