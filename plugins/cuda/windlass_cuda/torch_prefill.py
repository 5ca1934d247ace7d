"""Fused attention of others for long chunks: torch's flash, cuDNN, and FlashAttention-3."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch

from windlass.backend import AttentionParams
from windlass.backend.triton.prefill_providers import Chunks, PrefillProvider, Varlen
from windlass.kernels.triton.launch import LaunchConfig

CUDNN_LENGTH_MULTIPLE = 512
"""cuDNN builds a plan for every length, so prompts are padded to a multiple of this."""


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
