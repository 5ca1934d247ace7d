"""The workloads, their requests, and the figures that are read off a run."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from peers.protocol import Batch, Timings
from peers.shapes import VOCAB_SIZE

SPECIAL_TOKENS = 2
DECODE, TTFT, OUTPUT, PROMPT = "decode tok/s", "TTFT ms", "output tok/s", "prompt tok/s"
LOWER_IS_BETTER = frozenset({TTFT})


@dataclass(frozen=True)
class Work:
    """So many requests at once; lengths in tokens, drawn evenly from lowest to highest.

    `inputs` are the tokens of a request after the `shared_prefix` that all of them have.
    """

    name: str
    title: str
    requests: int
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    metrics: tuple[str, ...]
    shared_prefix: int = 0

    def shrunk(self, divisor: int) -> Work:
        """The same workload with shorter requests, for a trial."""
        lowest = min(2, self.outputs[0])
        return replace(
            self,
            inputs=(-(-self.inputs[0] // divisor), -(-self.inputs[1] // divisor)),
            outputs=(
                max(lowest, self.outputs[0] // divisor),
                max(lowest, self.outputs[1] // divisor),
            ),
            shared_prefix=self.shared_prefix // divisor,
        )


WORKS = {
    work.name: work
    for work in (
        Work("W1", "one request, 128 in, 128 out", 1, (128, 128), (128, 128), (DECODE, TTFT)),
        Work("W2@16", "16 requests, 128 in, 128 out", 16, (128, 128), (128, 128), (OUTPUT,)),
        Work("W2@64", "64 requests, 128 in, 128 out", 64, (128, 128), (128, 128), (OUTPUT,)),
        Work("W3", "one prompt of 2048", 1, (2048, 2048), (1, 1), (PROMPT,)),
        Work("W4", "64 requests, 32-512 in, 16-128 out", 64, (32, 512), (16, 128), (OUTPUT,)),
        Work(
            "W5",
            "32 requests, 1024 shared + 32 in, 32 out",
            32,
            (32, 32),
            (32, 32),
            (OUTPUT,),
            1024,
        ),
    )
}


def make_batch(work: Work, repetition: int) -> Batch:
    """The requests of one repetition: the same for every engine, new in every repetition."""
    lengths = random.Random(work.name)
    tokens = random.Random(f"{work} {repetition}")

    def draw(count: int) -> list[int]:
        return [tokens.randrange(SPECIAL_TOKENS, VOCAB_SIZE) for _ in range(count)]

    prefix = draw(work.shared_prefix)
    return Batch(
        prompts=[prefix + draw(lengths.randint(*work.inputs)) for _ in range(work.requests)],
        output_lens=[lengths.randint(*work.outputs) for _ in range(work.requests)],
        shared_prefix=work.shared_prefix,
    )


def figures(work: Work, batch: Batch, timings: Timings) -> dict[str, float]:
    """What the run shows, by metric.

    Raises:
        ValueError: a request did not get as many tokens as it asked for.
    """
    if timings.counts != batch.output_lens:
        raise ValueError(f"asked for {batch.output_lens} output tokens, got {timings.counts}")
    seconds = max(timings.end)
    return {metric: _figure(metric, batch, timings, seconds) for metric in work.metrics}


def _figure(metric: str, batch: Batch, timings: Timings, seconds: float) -> float:
    if metric == TTFT:
        return 1000 * timings.first[0]
    if metric == DECODE:
        return (batch.output_lens[0] - 1) / (timings.end[0] - timings.first[0])
    if metric == PROMPT:
        return sum(map(len, batch.prompts)) / seconds
    return sum(batch.output_lens) / seconds
