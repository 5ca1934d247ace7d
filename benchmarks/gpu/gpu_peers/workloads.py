"""The workloads: seeded requests of token ids, the same for every engine."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from peers.protocol import Batch

# Inside the vocabulary of every model, clear of special tokens.
LOWEST_ID, HIGHEST_ID = 100, 29999
NANO_HIGHEST_ID = 10000

STEP, PREFILL, OUTPUT = "ms/step", "ms/prefill", "output tok/s"
TTFT, TPOT, GAP = "TTFT ms", "TPOT ms", "gap ms"

Kind = Literal["decode", "prefill", "load", "online"]


@dataclass(frozen=True)
class Work:
    """A workload. `test` is the name by which it is asked for, `size` the batch of a decode, the
    prompts of a prefill or the requests of a load; `length` that of a prompt, in tokens.

    `rate` is in requests a second, `seconds` how long they arrive.
    """

    name: str
    kind: Kind
    test: str
    size: int
    length: int = 0
    rate: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Arrivals:
    """Requests that are submitted one by one, `at` so many seconds after the start."""

    prompts: list[list[int]]
    output_lens: list[int]
    at: list[float]


def workloads(
    batches: Sequence[int],
    context: int,
    prefill: int,
    rates: Sequence[float],
    seconds: float,
    shrink: int = 1,
) -> list[Work]:
    """All workloads; `shrink` divides numbers of requests and lengths, for a trial."""

    def less(number: int) -> int:
        return max(2, number // shrink)

    works = [Work(f"decode@{b}", "decode", "decode", b, less(context)) for b in batches]
    works.append(Work(f"prefill@{prefill}", "prefill", "prefill", 1, less(prefill)))
    works.append(Work("nano", "load", "nano", less(256), less(1024)))
    works.append(Work("mixed", "load", "mixed", less(1000), less(2048)))
    works.append(Work("prefix", "load", "prefix", less(128), less(4096)))
    works += [
        Work(f"online@{rate:g}", "online", "online", 0, less(2048), rate, seconds) for rate in rates
    ]
    return works


def fixed(size: int, length: int, outputs: int, seed: object) -> Batch:
    """Requests of one length, new for every seed."""
    draw = random.Random(f"fixed {size} {length} {outputs} {seed}")
    return Batch([_ids(draw, length) for _ in range(size)], [outputs] * size)


def load(work: Work, seed: object) -> Batch:
    """The requests of a workload of the kind "load"."""
    if work.test == "nano":
        return _nano(work)
    if work.test == "mixed":
        return _sharegpt_like(work.size, work.length, seed)
    return _shared_prefix(work, seed)


def poisson(work: Work) -> Arrivals:
    """ShareGPT-like requests whose distances in time are exponentially distributed."""
    batch = _sharegpt_like(max(1, int(work.rate * work.seconds)), work.length, work.rate)
    draw = random.Random(f"poisson {work.rate}")
    at, now = [], 0.0
    for _ in batch.prompts:
        now += draw.expovariate(work.rate)
        at.append(now)
    return Arrivals(batch.prompts, batch.output_lens, at)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie, by the nearest rank."""
    return sorted(values)[round(share * (len(values) - 1))]


def _nano(work: Work) -> Batch:
    """The requests of nano-vllm's benchmark: prompts and outputs of 100 to 1024 tokens.

    Its numbers come in the order of that benchmark, so that the requests are the same.
    """
    draw = random.Random(0)
    lowest = min(100, work.length)
    prompts = []
    for _ in range(work.size):
        length = draw.randint(lowest, work.length)
        prompts.append([draw.randint(0, NANO_HIGHEST_ID) for _ in range(length)])
    return Batch(prompts, [draw.randint(lowest, work.length) for _ in range(work.size)])


def _sharegpt_like(size: int, longest: int, seed: object) -> Batch:
    """Log-normal lengths with ShareGPT's means: 220 tokens in, 200 out."""
    draw = random.Random(f"sharegpt {size} {seed}")

    def length(mean: float, sigma: float) -> int:
        drawn = draw.lognormvariate(math.log(mean) - sigma**2 / 2, sigma)
        return max(4, min(longest, int(drawn)))

    prompts, outputs = [], []
    for _ in range(size):
        prompts.append(_ids(draw, length(220, 1.1)))
        outputs.append(length(200, 0.9))
    return Batch(prompts, outputs)


def _shared_prefix(work: Work, seed: object) -> Batch:
    """Eight groups with a prefix of their own, 128 tokens more in each request, 32 out."""
    draw = random.Random(f"prefix {work.size} {work.length} {seed}")
    groups = min(8, work.size)
    prefixes = [_ids(draw, work.length) for _ in range(groups)]
    own = min(128, work.length)
    prompts = [prefixes[i % groups] + _ids(draw, own) for i in range(work.size)]
    draw.shuffle(prompts)
    return Batch(prompts, [32] * work.size, shared_prefix=work.length)


def _ids(draw: random.Random, count: int) -> list[int]:
    return [draw.randint(LOWEST_ID, HIGHEST_ID - 1) for _ in range(count)]
