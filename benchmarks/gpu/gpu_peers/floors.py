"""The least time that a GPU needs for a step, from its two ceilings.

The linear layers of a step take at least as long as reading their weights, and as long as their
arithmetic; attention comes after them and takes at least as long as reading keys and values, and as
long as its own arithmetic. Both are bf16 unless a size in bytes says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpu_peers.models import Config


@dataclass(frozen=True)
class Ceilings:
    """What the device did in a probe: bytes copied a second (read and written), bf16 operations
    a second."""

    bandwidth: float
    flops: float


@dataclass(frozen=True)
class Chunk:
    """Tokens of one request in a step: `new` ones after `known` ones that are in the cache."""

    known: int
    new: int
    samples: bool = True


@dataclass(frozen=True)
class Costs:
    """What a model's steps read and compute. Counts are of elements unless a name says bytes.

    `dense` are the weights of a layer that every token meets (its router included), `expert` those
    of one expert, `head` those of the output layer.
    """

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    dense: int
    head: int
    expert: int = 0
    experts: int = 0
    experts_per_token: int = 0
    weight_bytes: float = 2
    kv_element_bytes: float = 2

    @classmethod
    def of(cls, config: Config, weight_bytes: float = 2, kv_element_bytes: float = 2) -> Costs:
        """Read a configuration; `weight_bytes` is what a weight of a linear layer takes."""
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        kv_heads = config["num_key_value_heads"]
        head_dim = config.get("head_dim", hidden // heads)
        dense = hidden * head_dim * (2 * heads + 2 * kv_heads)
        experts = config.get("num_experts", 0)
        expert = 3 * hidden * config["moe_intermediate_size"] if experts else 0
        dense += hidden * experts if experts else 3 * hidden * config["intermediate_size"]
        return cls(
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            dense=dense,
            head=hidden * config["vocab_size"],
            expert=expert,
            experts=experts,
            experts_per_token=config.get("num_experts_per_tok", 0) if experts else 0,
            weight_bytes=weight_bytes,
            kv_element_bytes=kv_element_bytes,
        )

    @property
    def kv_bytes_per_token(self) -> float:
        """Keys and values of a token in all layers."""
        return 2 * self.kv_element_bytes * self.layers * self.kv_heads * self.head_dim

    def read_bytes(self, tokens: int) -> float:
        """Weights that a step of so many tokens reads; of the experts those that are chosen when
        every token chooses at random."""
        met = 0.0
        if self.experts:
            missed = (1 - self.experts_per_token / self.experts) ** tokens
            met = self.experts * (1 - missed)
        layer = self.dense + met * self.expert
        return self.weight_bytes * (self.layers * layer + self.head)

    def linear_flops(self, tokens: int, sampled: int) -> float:
        """Arithmetic of the linear layers; the output layer is needed where a token is sampled."""
        layer = self.dense + self.experts_per_token * self.expert
        return 2.0 * (self.layers * layer * tokens + self.head * sampled)

    def attention_flops(self, chunk: Chunk) -> float:
        """Arithmetic of causal attention over a chunk, in all layers."""
        pairs = chunk.new * chunk.known + chunk.new * (chunk.new + 1) / 2
        return 4.0 * self.layers * self.heads * self.head_dim * pairs


def step_seconds(costs: Costs, chunks: Iterable[Chunk], ceilings: Ceilings) -> float:
    """The floor of one step."""
    tokens = sampled = 0
    kv_bytes = attention = 0.0
    for chunk in chunks:
        tokens += chunk.new
        sampled += chunk.samples
        kv_bytes += costs.kv_bytes_per_token * (chunk.known + chunk.new)
        attention += costs.attention_flops(chunk)
    linear = max(
        costs.read_bytes(tokens) / ceilings.bandwidth,
        costs.linear_flops(tokens, sampled) / ceilings.flops,
    )
    return linear + max(kv_bytes / ceilings.bandwidth, attention / ceilings.flops)


def decode_seconds(costs: Costs, batch: int, context: int, ceilings: Ceilings) -> float:
    """The floor of a decode step of `batch` requests that have `context` tokens each."""
    return step_seconds(costs, [Chunk(context - 1, 1)] * batch, ceilings)


def prefill_seconds(costs: Costs, prompts: int, length: int, ceilings: Ceilings) -> float:
    """The floor of whole prompts in one step."""
    return step_seconds(costs, [Chunk(0, length)] * prompts, ceilings)


def load_seconds(
    costs: Costs,
    lengths: Sequence[tuple[int, int, int]],
    max_running: int,
    ceilings: Ceilings,
) -> float:
    """The floor of requests submitted at once, at most `max_running` at a time.

    `lengths` are (tokens in the prefix cache, prompt tokens after them, output tokens). A request
    is prefilled in one step, in the order given, beside the decodes of the others.
    """
    waiting = list(reversed(lengths))
    running: list[tuple[int, int]] = []  # (tokens so far, output tokens still to come)
    total = 0.0
    while waiting or running:
        chunks = [Chunk(tokens - 1, 1) for tokens, _ in running]
        after = [(tokens + 1, left - 1) for tokens, left in running]
        while waiting and len(chunks) < max_running:
            known, new, outputs = waiting.pop()
            chunks.append(Chunk(known, new))
            after.append((known + new + 1, outputs - 1))
        running = [(tokens, left) for tokens, left in after if left > 0]
        total += step_seconds(costs, chunks, ceilings)
    return total
