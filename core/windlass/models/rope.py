"""Rotary frequencies from a Hugging Face configuration."""

from __future__ import annotations

import math
from typing import Any

import torch

from windlass.errors import ModelError
from windlass.models.config import RopeConfig

SCALED_TYPES = ("linear", "llama3", "yarn")


def rope_config(hf_config: Any, head_dim: int) -> RopeConfig:  # noqa: ANN401
    """Frequencies for `rope_parameters` of type default, linear, llama3 or yarn.

    Raises:
        ModelError: another type, rotation of a part of each head, or parameters per layer type.
    """
    parameters = hf_config.rope_parameters
    rope_type = _checked_type(parameters)
    if rope_type in ("default", "llama3"):
        channels = torch.arange(0, head_dim, 2, dtype=torch.float32)
        inv_freq, scaling = 1.0 / parameters["rope_theta"] ** (channels / head_dim), 1.0
        if rope_type == "llama3":
            inv_freq = _llama3(inv_freq, parameters)
    else:
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        inv_freq, scaling = ROPE_INIT_FUNCTIONS[rope_type](hf_config)
    return RopeConfig(inv_freq=tuple(inv_freq.tolist()), attention_scaling=float(scaling))


def _llama3(inv_freq: torch.Tensor, parameters: dict[str, Any]) -> torch.Tensor:
    """Long waves slowed down by the factor, short ones kept, those between in proportion.

    Llama 3.1 (The Llama 3 Herd of Models, 2024; scaling as in Meta's reference code).
    """
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    original, factor = parameters["original_max_position_embeddings"], parameters["factor"]
    wavelength = 2 * math.pi / inv_freq
    # In the order of transformers' operations, which rounding makes a difference to.
    share = (original / wavelength - low) / (high - low)
    between = (1 - share) * inv_freq / factor + share * inv_freq
    slowed = torch.where(wavelength > original / low, inv_freq / factor, inv_freq)
    is_between = (wavelength >= original / high) & (wavelength <= original / low)
    return torch.where(is_between, between, slowed)


def max_position(hf_config: Any) -> int:  # noqa: ANN401
    """Longest sequence in tokens, counting the length that a rope scaling adds.

    Linear and YaRN files state the length before scaling; llama3 files the one after it.
    """
    stated = int(hf_config.max_position_embeddings)
    parameters = hf_config.rope_parameters
    rope_type = parameters["rope_type"]
    if rope_type == "linear":
        return int(stated * parameters["factor"])
    if rope_type == "yarn":
        original = parameters["original_max_position_embeddings"]
        return max(stated, int(original * (parameters["factor"] or 1)))
    return stated


def _checked_type(parameters: dict[str, Any]) -> str:
    rope_type = parameters.get("rope_type")
    if not isinstance(rope_type, str):
        raise ModelError("config field rope_parameters differs by layer type: not supported")
    if rope_type not in ("default", *SCALED_TYPES):
        supported = ", ".join(("default", *SCALED_TYPES))
        raise ModelError(
            f"config field rope_parameters.rope_type is {rope_type!r}; supported are: {supported}"
        )
    share = parameters.get("partial_rotary_factor", 1.0)
    if share != 1.0:
        raise ModelError(
            f"config field rope_parameters.partial_rotary_factor is {share}; only 1.0 is supported"
        )
    return rope_type
