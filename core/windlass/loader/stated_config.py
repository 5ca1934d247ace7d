"""Configurations that need no interpretation, read without transformers.

transformers knows each model's defaults and the conversions of older files; importing that takes
longer than importing torch. Most files state everything that a decoder is made of in its plain
form, and are taken as they are; any other is left to transformers.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)
_SWITCHES = {
    "llama": ("attention_bias", "mlp_bias"),
    "mistral": (),
    "qwen2": ("use_sliding_window",),
    "qwen3": ("use_sliding_window", "attention_bias"),
}
_ROPE_NUMBERS = {
    "default": ("rope_theta",),
    "llama3": (
        "rope_theta",
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}
# What changes the meaning of other fields.
_FOREIGN = ("auto_map", "quantization_config", "partial_rotary_factor")


def stated_config(raw: dict[str, Any]) -> SimpleNamespace | None:
    """The fields of `config.json` that a decoder is made of, named as transformers names them.

    None if one is missing, has an unexpected type, or asks for more than the plain form.
    """
    model_type = raw.get("model_type")
    if model_type not in _SWITCHES or any(raw.get(name) is not None for name in _FOREIGN):
        return None
    fields: dict[str, Any] = {name: raw.get(name) for name in _SIZES}
    head_dim = raw.get("head_dim")
    switches = (*_SWITCHES[model_type], "tie_word_embeddings")
    rope_parameters = _plain_rope(raw)
    if (
        not all(map(_is_size, fields.values()))
        or fields["hidden_size"] % fields["num_attention_heads"]
        or not (_is_size(head_dim) or (head_dim is None and model_type != "qwen3"))
        or not all(isinstance(raw.get(name), bool) for name in switches)
        or not _other_fields_are_stated(raw)
        or rope_parameters is None
    ):
        return None
    return SimpleNamespace(
        **fields,
        **{name: raw[name] for name in switches},
        model_type=model_type,
        head_dim=head_dim,
        hidden_act=raw["hidden_act"],
        rms_norm_eps=raw["rms_norm_eps"],
        initializer_range=raw["initializer_range"],
        rope_parameters=rope_parameters,
        sliding_window=raw.get("sliding_window") if model_type == "mistral" else None,
        layer_types=["full_attention"] * fields["num_hidden_layers"],
        dtype=raw.get("dtype") or raw.get("torch_dtype"),
        eos_token_id=raw["eos_token_id"],
    )


def _is_size(value: object) -> bool:
    return type(value) is int and value > 0


def _other_fields_are_stated(raw: dict[str, Any]) -> bool:
    window = raw.get("sliding_window", "missing")
    slides = raw.get("use_sliding_window") is True or set(raw.get("layer_types") or ()) - {
        "full_attention"
    }
    return (
        isinstance(raw.get("hidden_act"), str)
        and isinstance(raw.get("rms_norm_eps"), float)
        and isinstance(raw.get("initializer_range"), float)
        and "eos_token_id" in raw
        and not slides
        and (raw["model_type"] != "mistral" or window is None or _is_size(window))
    )


def _plain_rope(raw: dict[str, Any]) -> dict[str, Any] | None:
    """Rotary parameters without scaling or with Llama 3's, of a new file or an old one."""
    rope = raw.get("rope_parameters")
    if rope is None:
        scaling = raw.get("rope_scaling") or {}
        if not isinstance(scaling, dict):
            return None
        rope = {"rope_theta": raw.get("rope_theta"), **scaling}
    elif raw.get("rope_scaling") is not None or not isinstance(rope, dict):
        return None
    rope = {"rope_type": "default", **rope}
    numbers = _ROPE_NUMBERS.get(str(rope["rope_type"]))
    if numbers is None or set(rope) != {"rope_type", *numbers}:
        return None
    return rope if all(type(rope[name]) in (int, float) for name in numbers) else None
