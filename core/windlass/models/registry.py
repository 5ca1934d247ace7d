"""From a Hugging Face configuration to a `DecoderConfig`, one function per architecture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from windlass.errors import ModelError
from windlass.models.config import DecoderConfig, ExpertsConfig
from windlass.models.rope import max_position, rope_config

# Has the attributes of a transformers configuration, named as in the checkpoint's config.json.
HFConfig = Any


def decoder_config(architecture: str, hf_config: HFConfig) -> DecoderConfig:
    """What `hf_config` means for `architecture`.

    Raises:
        ModelError: the architecture or one of the configuration's fields is not supported.
    """
    check_architecture(architecture)
    model_type, convert = ARCHITECTURES[architecture]
    if hf_config.model_type != model_type:
        raise ModelError(
            f"config field model_type is {hf_config.model_type!r}; "
            f"architecture {architecture!r} goes with {model_type!r}"
        )
    return convert(hf_config)


def check_architecture(architecture: str) -> None:
    """Raise a `ModelError` that lists the supported architectures unless this is one of them."""
    if architecture not in ARCHITECTURES:
        supported = ", ".join(ARCHITECTURES)
        raise ModelError(f"architecture {architecture!r} is not supported; supported: {supported}")


def llama(hf: HFConfig) -> DecoderConfig:
    """Llama 2 and 3.x."""
    return _decoder_config(
        hf,
        windows=(0,) * hf.num_hidden_layers,
        qkv_bias=hf.attention_bias,
        o_bias=hf.attention_bias,
        mlp_bias=hf.mlp_bias,
    )


def mistral(hf: HFConfig) -> DecoderConfig:
    """Mistral: one sliding window for every layer, where there is one."""
    return _decoder_config(hf, windows=(hf.sliding_window or 0,) * hf.num_hidden_layers)


def qwen2(hf: HFConfig) -> DecoderConfig:
    """Qwen2 and 2.5: a bias on query, key and value."""
    return _decoder_config(hf, windows=_windows_by_layer_type(hf), qkv_bias=True)


def qwen3(hf: HFConfig) -> DecoderConfig:
    """Qwen3 (dense): query and key heads are normalised."""
    return _decoder_config(
        hf,
        windows=_windows_by_layer_type(hf),
        qkv_bias=hf.attention_bias,
        o_bias=hf.attention_bias,
        qk_norm=True,
    )


def qwen3_moe(hf: HFConfig) -> DecoderConfig:
    """Qwen3 with experts in some or all layers."""
    layers = tuple(
        hf.num_experts > 0
        and layer not in hf.mlp_only_layers
        and (layer + 1) % hf.decoder_sparse_step == 0
        for layer in range(hf.num_hidden_layers)
    )
    experts = ExpertsConfig(
        num_experts=hf.num_experts,
        top_k=hf.num_experts_per_tok,
        intermediate_size=hf.moe_intermediate_size,
        renormalize=hf.norm_topk_prob,
        layers=layers,
    )
    return _decoder_config(
        hf,
        windows=(hf.sliding_window or 0,) * hf.num_hidden_layers,
        qkv_bias=hf.attention_bias,
        o_bias=hf.attention_bias,
        qk_norm=True,
        experts=experts if any(layers) else None,
    )


def mixtral(hf: HFConfig) -> DecoderConfig:
    """Mixtral: Mistral with experts in every layer."""
    experts = ExpertsConfig(
        num_experts=hf.num_local_experts,
        top_k=hf.num_experts_per_tok,
        intermediate_size=hf.intermediate_size,
        renormalize=True,
        layers=(True,) * hf.num_hidden_layers,
    )
    return dataclasses.replace(mistral(hf), experts=_checked(experts))


class Architecture(NamedTuple):
    """transformers' `model_type`, and what a configuration of that type means."""

    model_type: str
    convert: Callable[[HFConfig], DecoderConfig]


ARCHITECTURES = {
    "LlamaForCausalLM": Architecture("llama", llama),
    "MistralForCausalLM": Architecture("mistral", mistral),
    "Qwen2ForCausalLM": Architecture("qwen2", qwen2),
    "Qwen3ForCausalLM": Architecture("qwen3", qwen3),
    "Qwen3MoeForCausalLM": Architecture("qwen3_moe", qwen3_moe),
    "MixtralForCausalLM": Architecture("mixtral", mixtral),
}


def _decoder_config(
    hf: HFConfig,
    *,
    windows: tuple[int, ...],
    qkv_bias: bool = False,
    o_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    experts: ExpertsConfig | None = None,
) -> DecoderConfig:
    head_dim = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    _check_fields(hf)
    return DecoderConfig(
        vocab_size=hf.vocab_size,
        hidden_size=hf.hidden_size,
        intermediate_size=hf.intermediate_size,
        num_layers=hf.num_hidden_layers,
        num_heads=hf.num_attention_heads,
        num_kv_heads=hf.num_key_value_heads,
        head_dim=head_dim,
        rms_norm_eps=hf.rms_norm_eps,
        rope=rope_config(hf, head_dim),
        max_position=max_position(hf),
        windows=windows,
        qkv_bias=qkv_bias,
        o_bias=o_bias,
        mlp_bias=mlp_bias,
        qk_norm=qk_norm,
        experts=experts and _checked(experts),
        tie_word_embeddings=bool(hf.tie_word_embeddings),
        initializer_range=hf.initializer_range,
    )


def _check_fields(hf: HFConfig) -> None:
    if getattr(hf, "quantization_config", None):
        method = dict(hf.quantization_config).get("quant_method", "of unknown method")
        raise ModelError(
            f"config field quantization_config ({method}): quantised checkpoints are not supported"
        )
    if hf.hidden_act not in ("silu", "swish"):
        raise ModelError(f"config field hidden_act is {hf.hidden_act!r}; only silu is supported")
    if hf.num_attention_heads % hf.num_key_value_heads:
        raise ModelError(
            f"config field num_key_value_heads is {hf.num_key_value_heads}, which does not divide "
            f"num_attention_heads {hf.num_attention_heads}"
        )


def _checked(experts: ExpertsConfig) -> ExpertsConfig:
    if not 1 <= experts.top_k <= experts.num_experts:
        raise ModelError(
            f"config field num_experts_per_tok is {experts.top_k}; there are "
            f"{experts.num_experts} experts"
        )
    return experts


def _windows_by_layer_type(hf: HFConfig) -> tuple[int, ...]:
    sizes = {"full_attention": 0, "sliding_attention": hf.sliding_window or 0}
    types = hf.layer_types
    unknown = sorted(set(types) - set(sizes))
    if unknown or len(types) != hf.num_hidden_layers:
        raise ModelError(
            f"config field layer_types must name one of {', '.join(sizes)} for each of the "
            f"{hf.num_hidden_layers} layers; it has {len(types)} entries"
            + (f" and the unknown {', '.join(unknown)}" if unknown else "")
        )
    return tuple(sizes[kind] for kind in types)
