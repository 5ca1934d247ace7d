"""What huge pages and touching memory ahead of use do for the CPU's KV cache.

One thread, in processor time, which a busy machine changes least. Four kinds of memory take turns:
small or huge pages, touched ahead of use or not. Each is written for the first time, read in
blocks in random order, and decoded over. Ratios are over small pages that nothing touched before,
within one repetition: median, lowest, highest. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from windlass.backend import AttentionParams, BackendConfig, KVLayout, KVPool, KVSpec
from windlass.testing.paged_step import LAYER, PagedStep, build_step
from windlass_cpu.backend import CpuBackend
from windlass_cpu.library import set_threads
from windlass_cpu.memory import map_memory, populate
from windlass_cpu.plugin import SPEC

BLOCK = 32 << 10
KV = KVSpec(num_kv_heads=8, head_dim=128, dtype=torch.bfloat16)
LAYOUT = KVLayout(order="LBHNC", block_size=32)
MEASURES = ("touch ahead", "first write", "random 32 KiB blocks", "decode")


@dataclass(frozen=True)
class Kind:
    """How memory is taken."""

    huge_pages: bool
    ahead: bool

    def __str__(self) -> str:
        return f"{'huge' if self.huge_pages else 'small'} pages{', ahead' if self.ahead else ''}"


KINDS = [Kind(huge, ahead) for huge in (False, True) for ahead in (False, True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--requests", type=int, default=32, help="requests of 2048 tokens")
    args = parser.parse_args()
    backend = CpuBackend(SPEC, BackendConfig())
    torch.set_num_threads(1)
    set_threads(1)
    step = build_step(
        backend,
        query_lens=[1] * args.requests,
        seq_lens=[2048] * args.requests,
        layout=LAYOUT,
        num_heads=16,
        num_kv_heads=KV.num_kv_heads,
        head_dim=KV.head_dim,
        dtype=KV.dtype,
    )
    seconds: dict[Kind, list[tuple[float, ...]]] = {kind: [] for kind in KINDS}
    with torch.inference_mode():
        for _ in range(args.repeats):
            for kind in KINDS:
                seconds[kind].append(measure(kind, backend, step))
    report(seconds, step.pool.buffer.nbytes / 2**30)


def measure(kind: Kind, backend: CpuBackend, step: PagedStep) -> tuple[float, ...]:
    """Seconds of each of `MEASURES`."""
    source = step.pool.buffer
    memory = map_memory(source.nbytes, huge_pages=kind.huge_pages)
    ahead = timed(lambda: populate(memory, 0, memory.nbytes)) if kind.ahead else 0.0
    write = timed(lambda: memory.fill_(1))
    blocks = memory[: memory.nbytes // BLOCK * BLOCK].view(torch.int64).view(-1, BLOCK // 8)
    order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(0))
    one = torch.empty(BLOCK // 8, dtype=torch.int64)

    def gather() -> None:
        for block in order[:2000].tolist():
            one.copy_(blocks[block])

    random = min(timed(gather) for _ in range(3))
    memory.copy_(source)
    pool = KVPool.carve(memory, KV, LAYOUT, LAYER + 1, step.pool.num_blocks)
    plan = backend.attention.plan(step.batch, pool)
    out, params = torch.empty_like(step.query), AttentionParams(scale=KV.head_dim**-0.5)
    decode = min(
        timed(lambda: backend.attention.run(pool, LAYER, step.query, plan, params, out))
        for _ in range(3)
    )
    return ahead, write, random, decode


def timed(work: Callable[[], object]) -> float:
    """Seconds of the processor that `work` takes in this thread."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def report(seconds: dict[Kind, list[tuple[float, ...]]], gib: float) -> None:
    table = Table(title=f"{gib:.2f} GiB of KV cache, one thread, milliseconds of the processor")
    for heading in ("memory", *MEASURES):
        table.add_column(heading, justify="left" if heading == "memory" else "right")
    base = seconds[KINDS[0]]
    for kind, runs in seconds.items():
        cells = []
        for i in range(len(MEASURES)):
            text = f"{statistics.median(run[i] for run in runs) * 1e3:.1f}"
            ratios = [run[i] / first[i] for run, first in zip(runs, base, strict=True) if first[i]]
            if ratios and kind is not KINDS[0]:
                low, high = min(ratios), max(ratios)
                text += f"  {statistics.median(ratios):.2f} ({low:.2f}-{high:.2f})"
            cells.append(text)
        table.add_row(str(kind), *cells)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
