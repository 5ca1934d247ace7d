"""The linear kernels alone, beside torch's product and the memory's read bandwidth.

Weights rotate through more memory than the caches hold, as the layers of a model do. The products
of torch and of Windlass and a plain read of the same bytes take turns; the best time of each
counts, since whatever else the machine does only adds to it. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from windlass_cpu import linear
from windlass_cpu.library import declare, load_library

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 512, 2048)
SHAPES = {  # inputs, outputs
    "qwen3-0.6b": {
        "qkv": (1024, 4096),
        "o": (2048, 1024),
        "gate_up": (1024, 6144),
        "down": (3072, 1024),
        "lm_head": (1024, 32768),
    },
    "llama-3.2-1b": {
        "qkv": (2048, 3072),
        "o": (2048, 2048),
        "gate_up": (2048, 16384),
        "down": (8192, 2048),
        "lm_head": (2048, 32768),
    },
}
FORMATS: dict[str, Callable[[torch.Tensor], linear.KernelWeight]] = {
    "bf16": linear.Bf16Weight,
    "int8": linear.Int8Weight,
    "int4": linear.Int4Weight,
}

Clock = Callable[[], float]
Product = Callable[[], object]


@dataclass(frozen=True)
class Result:
    """Best seconds of one layer at one number of rows."""

    model: str
    layer: str
    inputs: int
    outputs: int
    weight_format: str
    weight_bytes: int
    rows: int
    windlass: float
    torch: float
    reading: float

    def gigabytes(self, seconds: float) -> float:
        """Bytes of weights a second, in GB, when they were read in `seconds`."""
        return self.weight_bytes / seconds / 1e9

    def gigaflops(self, seconds: float) -> float:
        """Arithmetic rate of a product that took `seconds`."""
        return 2 * self.rows * self.inputs * self.outputs / seconds / 1e9


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    clock = time.thread_time if args.clock == "thread" else time.perf_counter
    console = Console(width=120)
    results = []
    for model in args.models:
        for layer in args.layers or SHAPES[model]:
            for result in measure_layer(model, layer, args, clock):
                results.append(result)
                console.print(one_line(result), highlight=False)
    console.print(as_table(results))
    if args.output:
        Path(args.output).write_text(json.dumps([asdict(r) for r in results], indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--layers", nargs="+", help="of each model (default: all)")
    parser.add_argument("--format", choices=FORMATS, default="bf16")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure, about")
    parser.add_argument(
        "--clock",
        choices=("wall", "thread"),
        default="wall",
        help="thread: processor time of the one thread, for a busy machine (needs --threads 1)",
    )
    parser.add_argument("--footprint", type=int, default=512, help="MiB of weights to rotate")
    parser.add_argument("--output", metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()
    if args.clock == "thread" and args.threads != 1:
        parser.error("--clock thread sees one thread only: add --threads 1")
    return args


def measure_layer(
    model: str, layer: str, args: argparse.Namespace, clock: Clock
) -> Iterator[Result]:
    inputs, outputs = SHAPES[model][layer]
    copies = max(2, (args.footprint << 20) // (2 * inputs * outputs))
    dense = [torch.randn(outputs, inputs).mul_(0.02).bfloat16() for _ in range(copies)]
    packed = [FORMATS[args.format](weight) for weight in dense]
    logits = layer == "lm_head"
    for rows in args.rows:
        x = torch.randn(rows, inputs).bfloat16()
        ours, theirs = product_of_windlass(packed, x, logits), product_of_torch(dense, x, logits)
        times = best_times([ours, theirs, reading(packed)], args.seconds, clock)
        yield Result(
            model=model,
            layer=layer,
            inputs=inputs,
            outputs=outputs,
            weight_format=args.format,
            weight_bytes=packed[0].nbytes,
            rows=rows,
            windlass=times[0],
            torch=times[1],
            reading=times[2],
        )


def product_of_windlass(
    packed: list[linear.KernelWeight], x: torch.Tensor, logits: bool
) -> Product:
    weights = cycle(packed)
    if logits:
        return lambda: next(weights).apply_float(x)
    return lambda: next(weights).apply(x)


def product_of_torch(dense: list[torch.Tensor], x: torch.Tensor, logits: bool) -> Product:
    weights = cycle(dense)
    if logits:
        return lambda: F.linear(x, next(weights)).float()
    return lambda: F.linear(x, next(weights))


def reading(packed: list[linear.KernelWeight]) -> Product:
    """Reads the weights and computes nothing: the floor."""
    pointer = ctypes.c_void_p
    read = declare(load_library(), "windlass_linear_read", pointer, ctypes.c_int64, pointer)
    weights, checksum = cycle(packed), ctypes.c_uint64()

    def read_next() -> None:
        weight = next(weights)
        read(weight.address, weight.nbytes, ctypes.byref(checksum))

    return read_next


def best_times(products: list[Product], seconds: float, clock: Clock) -> list[float]:
    """The shortest time of each, taking turns for `seconds` each and at least four times."""
    best = [float("inf")] * len(products)
    end = time.perf_counter() + seconds * len(products)
    turns = 0
    while turns < 4 or time.perf_counter() < end:
        turns += 1
        for i, product in enumerate(products):
            start = clock()
            product()
            best[i] = min(best[i], clock() - start)
    return best


def one_line(result: Result) -> str:
    read, possible = result.gigabytes(result.windlass), result.gigabytes(result.reading)
    return (
        f"{result.model} {result.layer} {result.weight_format} {result.rows} rows: "
        f"{result.torch / result.windlass:.2f} times torch, {read:.1f} GB/s of {possible:.1f}, "
        f"{result.gigaflops(result.windlass):.0f} GFLOP/s"
    )


def as_table(results: list[Result]) -> Table:
    table = Table("model", "layer", "rows", title="Linear layers")
    for heading in ("windlass, us", "torch, us", "ratio", "GB/s", "read GB/s", "GFLOP/s", "torch"):
        table.add_column(heading, justify="right")
    for r in results:
        table.add_row(
            r.model,
            f"{r.layer} {r.inputs}→{r.outputs}",
            str(r.rows),
            f"{r.windlass * 1e6:.0f}",
            f"{r.torch * 1e6:.0f}",
            f"{r.torch / r.windlass:.2f}",
            f"{r.gigabytes(r.windlass):.1f}",
            f"{r.gigabytes(r.reading):.1f}",
            f"{r.gigaflops(r.windlass):.0f}",
            f"{r.gigaflops(r.torch):.0f}",
        )
    return table


if __name__ == "__main__":
    main()
