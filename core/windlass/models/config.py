"""A decoder as data: every difference between the architectures is a field here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypedDict


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding: one inverse frequency per pair of channels.

    `attention_scaling` multiplies cosine and sine (YaRN's temperature; 1 elsewhere).
    """

    inv_freq: tuple[float, ...]
    attention_scaling: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Shapes and switches of a decoder-only transformer.

    Attributes:
        max_position: positions that the model (or the engine's limit) allows.
        windows: per layer, how many positions a query sees, itself included (0: all).
        qkv_bias, o_bias, mlp_bias: which linear layers add a bias.
        qk_norm: RMS norm over each query and key head before the rotary embedding.
        tie_word_embeddings: the output projection is the embedding.
        initializer_range: standard deviation of freshly initialised weights.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: RopeConfig
    max_position: int
    windows: tuple[int, ...]
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02

    @property
    def q_size(self) -> int:
        """Width of all query heads."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads, and of all value heads."""
        return self.num_kv_heads * self.head_dim

    @property
    def parameters_per_layer(self) -> int:
        """Numbers that one layer holds."""
        qkv = self.q_size + 2 * self.kv_size
        linear = self.hidden_size * (qkv + self.q_size + 3 * self.intermediate_size)
        norm = 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        bias = qkv * self.qkv_bias + self.hidden_size * self.o_bias
        bias += (2 * self.intermediate_size + self.hidden_size) * self.mlp_bias
        return linear + norm + bias

    @property
    def num_parameters(self) -> int:
        """Numbers that the model holds; a tied embedding counts once."""
        embeddings = (1 if self.tie_word_embeddings else 2) * self.vocab_size * self.hidden_size
        return embeddings + self.num_layers * self.parameters_per_layer + self.hidden_size

    def limited_to(self, max_model_len: int) -> DecoderConfig:
        """The same model for sequences of at most `max_model_len` tokens.

        A window that no sequence can outgrow is dropped.
        """
        windows = tuple(0 if window >= max_model_len else window for window in self.windows)
        return dataclasses.replace(self, max_position=max_model_len, windows=windows)


class AttentionNeeds(TypedDict):
    """What a decoder asks of a backend's attention."""

    head_dim: int
    features: frozenset[str]


def attention_needs(config: DecoderConfig) -> AttentionNeeds:
    """The arguments of `Capabilities.missing_for` that follow from the architecture."""
    features = set()
    if config.num_kv_heads != config.num_heads:
        features.add("gqa")
    if any(config.windows):
        features.add("window")
    return AttentionNeeds(head_dim=config.head_dim, features=frozenset(features))
