"""What follows from a decoder's configuration."""

from __future__ import annotations

from typing import Any

from windlass.models.config import DecoderConfig, RopeConfig, attention_needs


def config(**changes: Any) -> DecoderConfig:
    fields: dict[str, Any] = {
        "vocab_size": 10,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 4,
        "head_dim": 2,
        "rms_norm_eps": 1e-6,
        "rope": RopeConfig(inv_freq=(1.0,)),
        "max_position": 64,
        "windows": (0, 0),
    }
    return DecoderConfig(**(fields | changes))


def test_plain_attention_needs_no_feature() -> None:
    assert attention_needs(config()) == {"head_dim": 2, "features": frozenset()}


def test_grouped_heads_and_windows_are_needs() -> None:
    needs = attention_needs(config(num_kv_heads=2, windows=(0, 16)))
    assert needs["features"] == {"gqa", "window"}


def test_a_window_that_no_sequence_outgrows_is_dropped() -> None:
    limited = config(windows=(16, 32)).limited_to(32)
    assert limited.max_position == 32
    assert limited.windows == (16, 0)
