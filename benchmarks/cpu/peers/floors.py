"""The least time that the machine needs for a workload, from its two ceilings.

A product takes at least as long as reading its weights, and as long as its arithmetic at the rate
of a large bf16 product. Prefill counts as one step over all prompts (a shared prefix once), then
come decode steps over all requests that are not done. An int8 product may beat the bf16 rate: the
floors of int8 are exact only where reading the weights is what takes the time.
"""

from __future__ import annotations

from dataclasses import dataclass

from peers.protocol import Batch
from peers.shapes import Shape
from peers.workloads import DECODE, OUTPUT, PROMPT, TTFT, Work


@dataclass(frozen=True)
class Ceilings:
    """What the machine did in a probe: bytes read a second, bf16 operations a second."""

    bandwidth: float
    flops: float


def prefill_seconds(shape: Shape, precision: str, batch: Batch, ceilings: Ceilings) -> float:
    """The floor from the submission to the first token of every request."""
    flops = 2 * shape.hidden * shape.vocab * len(batch.prompts)
    for i, prompt in enumerate(batch.prompts):
        known = batch.shared_prefix if i else 0
        new = len(prompt) - known
        flops += 2 * shape.layers * shape.layer_weights * new
        flops += shape.attention_flops((known + 1 + len(prompt)) * new // 2)
    return max(flops / ceilings.flops, shape.step_bytes(precision) / ceilings.bandwidth)


def decode_seconds(shape: Shape, precision: str, batch: Batch, ceilings: Ceilings) -> float:
    """The floor of all steps after the first token."""
    total = 0.0
    for step in range(1, max(batch.output_lens)):
        contexts = [
            len(prompt) + step
            for prompt, length in zip(batch.prompts, batch.output_lens, strict=True)
            if length > step
        ]
        num_bytes = shape.step_bytes(precision) + shape.kv_bytes_per_token * sum(contexts)
        flops = 2 * shape.step_weights * len(contexts) + shape.attention_flops(sum(contexts))
        total += max(num_bytes / ceilings.bandwidth, flops / ceilings.flops)
    return total


def floors(
    work: Work, shape: Shape, precision: str, batch: Batch, ceilings: Ceilings
) -> dict[str, float]:
    """The best value that each metric of the workload could have."""
    prefill = prefill_seconds(shape, precision, batch, ceilings)
    found = {}
    for metric in work.metrics:
        if metric == TTFT:
            found[metric] = 1000 * prefill
        elif metric == DECODE:  # of one request: its keys and values count for nothing
            found[metric] = ceilings.bandwidth / shape.step_bytes(precision)
        elif metric == PROMPT:
            found[metric] = sum(map(len, batch.prompts)) / prefill
        elif metric == OUTPUT:
            decode = decode_seconds(shape, precision, batch, ceilings)
            found[metric] = sum(batch.output_lens) / (prefill + decode)
    return found
