"""Fused attention of others for long chunks: torch's flash, cuDNN, and FlashAttention-3.

None of them reads our cache, so a chunk's keys and values are gathered first: a copy of a few
percent of the time that the products of a long chunk take.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from windlass.backend import AttentionBatch, AttentionParams
from windlass.kernels.triton.gather_kv import gather_kv
from windlass.kernels.triton.launch import LaunchConfig
from windlass_cuda.tuning import CUDNN_LENGTH_MULTIPLE

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


class TorchFlash(Varlen):
    """FlashAttention-2 as torch brings it."""

    name = "torch_flash"

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        chunks: Chunks,
        params: AttentionParams,
    ) -> torch.Tensor:
        """Windows too."""
        window = {"window_size_left": params.window - 1, "window_size_right": 0}
        result: torch.Tensor = torch.ops.aten._flash_attention_forward(
            query,
            key,
            value,
            chunks.cu_seqlens_q,
            chunks.cu_seqlens_k,
            max(chunks.query_lens),
            max(chunks.seq_lens),
            0.0,
            True,
            False,
            scale=params.scale,
            **(window if params.window else {}),
        )[0]
        return result


class FlashAttention3(Varlen):
    """FlashAttention-3 (Shah et al., 2024), from the package `flash_attn_interface`."""

    name = "flash_attention_3"

    def __init__(self) -> None:
        self._attend: Any = importlib.import_module("flash_attn_interface").flash_attn_varlen_func

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        chunks: Chunks,
        params: AttentionParams,
    ) -> torch.Tensor:
        """Windows too."""
        result: Any = self._attend(
            query,
            key,
            value,
            chunks.cu_seqlens_q,
            chunks.cu_seqlens_k,
            max(chunks.query_lens),
            max(chunks.seq_lens),
            softmax_scale=params.scale,
            causal=True,
            window_size=(params.window - 1, 0) if params.window else (-1, -1),
        )
        attended: torch.Tensor = result[0] if isinstance(result, tuple) else result
        return attended


class Cudnn(PrefillProvider):
    """cuDNN's attention: whole prompts, one after the other, padded to few different lengths.

    Padding stands behind the prompt, where causality hides it.
    """

    name = "cudnn"

    def supports(self, dtype: torch.dtype, head_dim: int, params: AttentionParams) -> bool:
        """No window."""
        return super().supports(dtype, head_dim, params) and not params.window

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
        """A launch for each prompt, after one gathering for all."""
        multiple = CUDNN_LENGTH_MULTIPLE
        lengths = [-(-length // multiple) * multiple for length in chunks.seq_lens]
        starts = chunks.starts(lengths)
        key, value = chunks.gather(keys, values, starts, lengths, query.dtype, config)
        prompts = zip(
            query[chunks.tokens].split(chunks.query_lens),
            out[chunks.tokens].split(chunks.query_lens),
            key.split(lengths),
            value.split(lengths),
            strict=True,
        )
        for prompt, prompt_out, prompt_key, prompt_value in prompts:
            count, length = len(prompt), len(prompt_key)
            padded = prompt
            if count < length:
                padded = prompt.new_empty(length, *prompt.shape[1:])
                padded[:count] = prompt
                padded[count:] = 0
            result = torch.ops.aten._scaled_dot_product_cudnn_attention(
                _heads_first(padded),
                _heads_first(prompt_key),
                _heads_first(prompt_value),
                None,
                False,
                0.0,
                True,
                False,
                scale=params.scale,
            )
            prompt_out.copy_(result[0][0].transpose(0, 1)[:count])


def installed_providers() -> dict[str, PrefillProvider]:
    """The providers that can be used here, by name."""
    providers: list[PrefillProvider] = [TorchFlash(), Cudnn()]
    if importlib.util.find_spec("flash_attn_interface") is not None:
        providers.append(FlashAttention3())
    return {provider.name: provider for provider in providers}


def _heads_first(x: torch.Tensor) -> torch.Tensor:
    """`[S, H, D]` as `[1, H, S, D]`, without a copy."""
    return x.transpose(0, 1)[None]
