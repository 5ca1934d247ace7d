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
class ExpertsConfig:
    """The sparse feed-forward layers of a mixture of experts.

    Attributes:
        top_k: experts of a token.
        intermediate_size: of one expert.
        renormalize: the weights of a token's experts sum to 1.
        layers: per layer, whether it has experts; the others have a dense feed-forward layer.
    """

    num_experts: int
    top_k: int
    intermediate_size: int
    renormalize: bool
    layers: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Shapes and switches of a decoder-only transformer.

    Attributes:
        max_position: positions that the model (or the engine's limit) allows.
        windows: per layer, how many positions a query sees, itself included (0: all).
        qkv_bias, o_bias, mlp_bias: which linear layers add a bias.
        qk_norm: RMS norm over each query and key head before the rotary embedding.
        intermediate_size: of the dense feed-forward layers.
        experts: what the other feed-forward layers are, if there are others.
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
    experts: ExpertsConfig | None = None
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

    def experts_of(self, layer: int) -> ExpertsConfig | None:
        """The experts of one layer, None where its feed-forward layer is dense."""
        return self.experts if self.experts is not None and self.experts.layers[layer] else None

    @property
    def mlp_width(self) -> int:
        """Numbers that the widest feed-forward layer makes of a token before its second product."""
        widths = [self.intermediate_size]
        for layer in range(self.num_layers):
            if (experts := self.experts_of(layer)) is not None:
                widths.append(experts.top_k * experts.intermediate_size)
        return max(widths)

    def parameters_of(self, layer: int) -> int:
        """Numbers that one layer holds."""
        qkv = self.q_size + 2 * self.kv_size
        linear = self.hidden_size * (qkv + self.q_size)
        norm = 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        bias = qkv * self.qkv_bias + self.hidden_size * self.o_bias
        return linear + norm + bias + self._mlp_parameters(layer)

    def _mlp_parameters(self, layer: int) -> int:
        experts = self.experts_of(layer)
        if experts is not None:
            return experts.num_experts * self.hidden_size * (3 * experts.intermediate_size + 1)
        bias = (2 * self.intermediate_size + self.hidden_size) * self.mlp_bias
        return 3 * self.hidden_size * self.intermediate_size + bias

    @property
    def num_parameters(self) -> int:
        """Numbers that the model holds; a tied embedding counts once."""
        embeddings = (1 if self.tie_word_embeddings else 2) * self.vocab_size * self.hidden_size
        layers = sum(map(self.parameters_of, range(self.num_layers)))
        return embeddings + layers + self.hidden_size

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
