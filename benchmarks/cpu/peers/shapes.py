"""The shapes of the models, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

BYTES_PER_WEIGHT = {"bf16": 2, "int8": 1}
VOCAB_SIZE = 32768


@dataclass(frozen=True)
class Shape:
    """A decoder with tied embeddings. Counts are of elements unless a name says bytes."""

    name: str
    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int = VOCAB_SIZE

    def with_layers(self, layers: int) -> Shape:
        """The same model, cut short."""
        return replace(self, layers=layers)

    @property
    def layer_weights(self) -> int:
        """Weights of the products of one layer."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def step_weights(self) -> int:
        """Weights that a decode step reads: all layers and the output projection."""
        return self.layers * self.layer_weights + self.hidden * self.vocab

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of a token in 16 bits."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim

    def step_bytes(self, precision: str) -> int:
        """Bytes of weights that a decode step reads."""
        return self.step_weights * BYTES_PER_WEIGHT[precision]

    def attention_flops(self, context: int) -> int:
        """Arithmetic of one token's attention over `context` tokens, all layers."""
        return 4 * self.layers * self.heads * self.head_dim * context


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("qwen3-0.6b", "qwen3", 28, 1024, 16, 8, 128, 3072),
        Shape("llama-3.2-1b", "llama", 16, 2048, 32, 8, 64, 8192),
    )
}
