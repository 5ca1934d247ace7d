"""Attention of others for chunks of a prompt, which none of them reads from our cache.

So a chunk's keys and values are gathered first: a copy of a few percent of the time that the
products of a long chunk take. Which chunks go to whom is a tuning's `prefill_rules`.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from windlass.backend.attention import AttentionBatch, AttentionParams
from windlass.kernels.triton.gather_kv import gather_kv
from windlass.kernels.triton.launch import LaunchConfig

HALF_DTYPES = (torch.bfloat16, torch.float16)


@dataclass(kw_only=True)
class Chunks:
    """Consecutive rows `[first_row, end_row)` of a step that go to one provider.

    What is computed here is the same for all layers.
    """

    batch: AttentionBatch
    first_row: int
    end_row: int

    @property
    def tokens(self) -> slice:
        """The rows' query tokens in the step."""
        cu_seqlens = self.batch.cu_seqlens_q_cpu
        return slice(cu_seqlens[self.first_row], cu_seqlens[self.end_row])

    @cached_property
    def query_lens(self) -> list[int]:
        """Query tokens of each row."""
        cu_seqlens = self.batch.cu_seqlens_q_cpu[self.first_row : self.end_row + 1]
        return [end - start for start, end in itertools.pairwise(cu_seqlens)]

    @cached_property
    def seq_lens(self) -> list[int]:
        """Tokens of each row, with those of the step."""
        return self.batch.seq_lens_cpu[self.first_row : self.end_row]

    @cached_property
    def cu_seqlens_q(self) -> torch.Tensor:
        """int32 `[rows + 1]`: where each row's query tokens start, the first at 0."""
        rows = self.batch.cu_seqlens_q[self.first_row : self.end_row + 1]
        return rows - self.batch.cu_seqlens_q_cpu[self.first_row]

    @cached_property
    def cu_seqlens_k(self) -> torch.Tensor:
        """int32 `[rows + 1]`: where each row's keys start when gathered without gaps."""
        return self.starts(self.seq_lens)

    def starts(self, lengths: list[int]) -> torch.Tensor:
        """int32 `[rows + 1]` on the device: prefix sum of `lengths`."""
        sums = [sum(lengths[:count]) for count in range(len(lengths) + 1)]
        return upload(sums, self.batch.seq_lens.device)

    def gather(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        starts: torch.Tensor,
        lengths: list[int],
        dtype: torch.dtype,
        config: LaunchConfig,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows' keys and values, each row with room for `lengths` tokens."""
        rows = slice(self.first_row, self.end_row)
        return gather_kv(
            keys,
            values,
            starts,
            self.batch.seq_lens[rows],
            self.batch.block_table[rows],
            sum(lengths),
            max(lengths),
            dtype,
            config,
        )


def upload(numbers: list[Any], device: torch.device) -> torch.Tensor:
    """An int32 tensor on the device, without waiting for it."""
    host = torch.tensor(numbers, dtype=torch.int32, pin_memory=device.type != "cpu")
    return host.to(device, non_blocking=True)


class PrefillProvider(ABC):
    """Attention of whole chunks over keys and values that lie one after the other."""

    name: str

    def supports(self, dtype: torch.dtype, head_dim: int, params: AttentionParams) -> bool:
        """Whether a layer of this kind can run; an lse is never wanted."""
        return (
            dtype in HALF_DTYPES
            and head_dim % 8 == 0
            and not params.softcap
            and params.sinks is None
        )

    @abstractmethod
    def run(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        chunks: Chunks,
        params: AttentionParams,
        out: torch.Tensor,
        config: LaunchConfig,
    ) -> None:
        """Attention of the chunks' tokens of `query` `[T, Hq, D]` into the same ones of `out`.

        `keys` and `values` are a layer's cache `[B, N, Hkv, D]`; `config` launches the gathering.
        """


class Varlen(PrefillProvider):
    """One launch for chunks of any lengths; causality is aligned with each one's last key."""

    def run(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        chunks: Chunks,
        params: AttentionParams,
        out: torch.Tensor,
        config: LaunchConfig,
    ) -> None:
        """Gather, attend, and copy, for the result is in memory of its own."""
        tokens, starts = chunks.tokens, chunks.cu_seqlens_k
        key, value = chunks.gather(keys, values, starts, chunks.seq_lens, query.dtype, config)
        out[tokens].copy_(self.attend(query[tokens], key, value, chunks, params))

    @abstractmethod
    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        chunks: Chunks,
        params: AttentionParams,
    ) -> torch.Tensor:
        """Attention of the chunks' `query` `[tokens, Hq, D]` over `[total, Hkv, D]`."""
