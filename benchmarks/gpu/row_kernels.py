"""The row kernels on a GPU: time of a call beside what its bytes need, and beside the reference.

Calls are captured in a CUDA graph and replayed, so that the host does not count; "eager" is what
the host needs for a call that is not. The floor is the bytes of a call over the bandwidth of a
large copy on the same GPU; small calls find their data in the cache, and may beat it. Prints a
table; --out writes everything as JSON. About a minute.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from windlass.backend import HeadNorm, KVLayout, KVPool, KVSpec
from windlass.backend.triton.ops import TritonOps
from windlass.kernels import REFERENCES
from windlass.kernels.triton import rope as rotary
from windlass.kernels.triton.write_kv import write_kv
from windlass_cuda.device import tuning_of

TOKENS = (1, 8, 64, 256, 8192)
HIDDEN = (1024, 4096)
VOCABULARY = (128256, 151936)
ROWS = (1, 8, 64, 256)
HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE = 32, 8, 128, 64
DEVICE = torch.device("cuda")


@dataclass(frozen=True)
class Case:
    """One call of an op, the same by the reference, and the bytes that it must move."""

    op: str
    shape: str
    run: Callable[[], object]
    reference: Callable[[], object] | None
    nbytes: int
    slow_reference: bool = False


@dataclass
class Measured:
    """Microseconds a call; None where it could not be measured."""

    op: str
    shape: str
    microseconds: float
    floor: float
    reference: float | None
    eager: float | None
    error: str = field(default="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="where to write JSON")
    parser.add_argument("--only", default="", help="ops whose name contains this")
    args = parser.parse_args()
    bandwidth = copy_bandwidth()
    console = Console(width=120)
    console.print(f"{torch.cuda.get_device_name()}: a copy moves {bandwidth / 1e12:.2f} TB/s")
    table = Table("op", "shape", "us", "floor us", "x floor", "reference us", "eager us")
    results = []
    for case in cases():
        if args.only not in case.op:
            continue
        result = measure(case, bandwidth)
        results.append(result)
        table.add_row(
            result.op,
            result.shape,
            f"{result.microseconds:.1f}",
            f"{result.floor:.1f}",
            f"{result.microseconds / max(result.floor, 1e-3):.1f}",
            "-" if result.reference is None else f"{result.reference:.1f}",
            "-" if result.eager is None else f"{result.eager:.1f}",
        )
    console.print(table)
    if args.out:
        facts = {"device": torch.cuda.get_device_name(), "copy_bytes_per_second": bandwidth}
        args.out.write_text(json.dumps({**facts, "results": [asdict(r) for r in results]}))


def measure(case: Case, bandwidth: float) -> Measured:
    small = case.nbytes < 4 << 20
    reference = None
    if case.reference is not None:
        reference = graph_time(case.reference, 2 if case.slow_reference else 10)
    return Measured(
        case.op,
        case.shape,
        graph_time(case.run, 20 if small else 5) or math.nan,
        case.nbytes / bandwidth * 1e6,
        reference,
        eager_time(case.run) if small else None,
    )


def graph_time(function: Callable[[], object], calls: int) -> float | None:
    """Microseconds of a call within a graph of several; None when it cannot be captured."""
    try:
        function()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                function()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    graph.replay()
    best = math.inf
    for _ in range(5):
        start, end = (
            torch.Event("cuda", enable_timing=True),
            torch.Event("cuda", enable_timing=True),
        )
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        best = min(best, start.elapsed_time(end) * 1e3 / calls)
    return best


def eager_time(function: Callable[[], object], calls: int = 200) -> float:
    """Microseconds that the host needs to launch a call."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(calls):
        function()
    elapsed = time.perf_counter() - started
    torch.cuda.synchronize()
    return elapsed / calls * 1e6


def copy_bandwidth() -> float:
    """Bytes a second, read and written together, of copying 1 GiB."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    microseconds = graph_time(lambda: target.copy_(source), 5)
    assert microseconds is not None
    return 2 * source.numel() / microseconds * 1e6


def cases() -> Iterator[Case]:
    ops = TritonOps(tuning_of())
    for tokens in TOKENS:
        for hidden in HIDDEN:
            yield from hidden_cases(ops, tokens, hidden)
        yield from head_cases(ops, tokens)
    for rows in ROWS:
        yield begin_case(ops, rows)
        for vocab_size in VOCABULARY:
            yield from choosing_cases(ops, rows, vocab_size)
            yield from adjusting_cases(ops, rows, vocab_size)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device=DEVICE, dtype=torch.bfloat16)


def hidden_cases(ops: TritonOps, tokens: int, hidden: int) -> Iterator[Case]:
    x, residual, weight = normal(tokens, hidden), normal(tokens, hidden), normal(hidden)
    gate_up = normal(tokens, 2 * 4 * hidden)
    shape, nbytes = f"{tokens} x {hidden}", x.nbytes
    yield Case(
        "rms_norm",
        shape,
        lambda: ops.rms_norm(x, weight, 1e-6),
        lambda: REFERENCES["rms_norm"](x, weight, 1e-6),
        2 * nbytes,
    )
    yield Case(
        "add_rms_norm",
        shape,
        lambda: ops.add_rms_norm(x, residual, weight, 1e-6),
        lambda: REFERENCES["add_rms_norm"](x, residual, weight, 1e-6),
        4 * nbytes,
    )
    yield Case(
        "silu_mul",
        f"{tokens} x {4 * hidden}",
        lambda: ops.silu_mul(gate_up),
        lambda: REFERENCES["silu_mul"](gate_up),
        gate_up.nbytes * 3 // 2,
    )


def head_cases(ops: TritonOps, tokens: int) -> Iterator[Case]:
    qkv = normal(tokens, HEADS + 2 * KV_HEADS, HEAD_DIM)
    query, key, value = qkv.split_with_sizes([HEADS, KV_HEADS, KV_HEADS], dim=1)
    positions = torch.arange(tokens, device=DEVICE)
    cos_sin = torch.rand(tokens + 1, HEAD_DIM, device=DEVICE)
    norm = HeadNorm(normal(HEAD_DIM), normal(HEAD_DIM), 1e-6)
    config = tuning_of().head_config(HEAD_DIM, tokens)
    shape = f"{tokens} x {HEADS}/{KV_HEADS} x {HEAD_DIM}"
    yield Case(
        "rope",
        shape,
        lambda: ops.rope(query, key, positions, cos_sin),
        lambda: REFERENCES["rope"](query, key, positions, cos_sin),
        2 * (query.numel() + key.numel()) * 2,
    )
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float8_e4m3fn, "fp8")):
        if dtype is not torch.bfloat16 and torch.cuda.get_device_capability() < (8, 9):
            continue
        spec = KVSpec(num_kv_heads=KV_HEADS, head_dim=HEAD_DIM, dtype=dtype)
        layout = KVLayout(order="LBHNC", block_size=BLOCK_SIZE)
        blocks = tokens // BLOCK_SIZE + 2
        buffer = torch.zeros(layout.block_bytes(spec, 1) * blocks, dtype=torch.uint8, device=DEVICE)
        pool = KVPool.carve(buffer, spec, layout, 1, blocks)
        slots = torch.arange(tokens, device=DEVICE) + BLOCK_SIZE
        written = 2 * key.numel() * dtype.itemsize
        yield Case(
            f"rope_and_write {name}",
            shape,
            lambda pool=pool, slots=slots: rotary.rope_and_write(  # type: ignore[misc]
                query, key, value, positions, cos_sin, pool.keys[0], pool.values[0], slots, norm,
                config,
            ),
            None,
            qkv.nbytes + query.numel() * 2 + written,
        )  # fmt: skip
        yield Case(
            f"write_kv {name}",
            shape,
            lambda pool=pool, slots=slots: write_kv(  # type: ignore[misc]
                key, value, pool.keys[0], pool.values[0], slots, config
            ),
            None,
            4 * key.numel() + written,
        )


def begin_case(ops: TritonOps, rows: int, columns: int = 512) -> Case:
    table = torch.zeros(rows + 1, columns, dtype=torch.int32, device=DEVICE)
    last_token, position = torch.zeros(2, rows + 1, dtype=torch.int64, device=DEVICE)
    index = torch.full((rows,), rows, dtype=torch.int32, device=DEVICE)
    arguments = (index, last_token, position, table, columns, BLOCK_SIZE, torch.int64)
    return Case(
        "begin_decode",
        f"{rows} x {columns}",
        lambda: ops.begin_decode(*arguments),
        lambda: REFERENCES["begin_decode"](*arguments),
        2 * rows * columns * 4,
    )


PARAMETERS = {
    "greedy": (0.0, 0, 1.0, 0.0),
    "temperature": (0.8, 0, 1.0, 0.0),
    "top-k 50": (0.8, 50, 1.0, 0.0),
    "top-p 0.95": (0.8, 0, 0.95, 0.0),
    "top-k 50, top-p 0.95": (0.8, 50, 0.95, 0.0),
    "min-p 0.05": (0.8, 0, 1.0, 0.05),
}


def choosing_cases(ops: TritonOps, rows: int, vocab_size: int) -> Iterator[Case]:
    logits = torch.randn(rows, vocab_size, device=DEVICE) * 3
    index = torch.arange(rows, device=DEVICE)
    last_token = torch.zeros(rows + 1, dtype=torch.int64, device=DEVICE)
    for name, (temperature, top_k, top_p, min_p) in PARAMETERS.items():
        columns = (
            torch.full((rows + 1,), temperature, device=DEVICE),
            torch.full((rows + 1,), top_k, dtype=torch.int32, device=DEVICE),
            torch.full((rows + 1,), top_p, device=DEVICE),
            torch.full((rows + 1,), min_p, device=DEVICE),
            torch.arange(rows + 1, device=DEVICE),
        )
        arguments = (logits, index.int(), last_token, last_token, *columns)
        yield Case(
            f"next_tokens {name}",
            f"{rows} x {vocab_size}",
            lambda arguments=arguments: ops.next_tokens(*arguments),  # type: ignore[misc]
            (lambda arguments=arguments: REFERENCES["next_tokens"](*arguments))  # type: ignore[misc]
            if name == "greedy" and rows <= 64
            else None,
            logits.nbytes,
            slow_reference=True,
        )


def adjusting_cases(ops: TritonOps, rows: int, vocab_size: int) -> Iterator[Case]:
    logits = torch.randn(rows, vocab_size, device=DEVICE) * 3
    tokens = torch.zeros(rows, dtype=torch.int64, device=DEVICE)
    shape = f"{rows} x {vocab_size}"
    yield Case(
        "greedy", shape, lambda: ops.greedy(logits), lambda: REFERENCES["greedy"](logits),
        logits.nbytes,
    )  # fmt: skip
    yield Case(
        "token_logprobs 5",
        shape,
        lambda: ops.token_logprobs(logits, tokens, 5),
        lambda: REFERENCES["token_logprobs"](logits, tokens, 5),
        logits.nbytes,
    )
    seen = torch.zeros(rows, vocab_size, dtype=torch.bool, device=DEVICE)
    counts = torch.zeros(rows, vocab_size, dtype=torch.int32, device=DEVICE)
    amounts = torch.ones(3, rows, device=DEVICE)
    yield Case(
        "penalties",
        shape,
        lambda: ops.penalties(logits, seen, counts, *amounts),
        lambda: REFERENCES["penalties"](logits, seen, counts, *amounts),
        2 * logits.nbytes + seen.nbytes + counts.nbytes,
    )


if __name__ == "__main__":
    main()
