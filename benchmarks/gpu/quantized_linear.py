"""Products with int8, int4 and fp8 weights on a GPU, beside bf16's, at the shapes of Llama-3.1-8B.

First every kernel is compared with the reference's weight. Then tiles are tried for each number of
rows: time, the share of the copy bandwidth measured in the same run that reading the weight once
comes to, and the ratio to torch's bf16 product. Weights are more than the cache holds. The last
lines are entries for `windlass_cuda/quantized_tuning.py`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from windlass.backend import Quantization
from windlass.backend.triton.quantized import RoundedWeight
from windlass.backend.triton.quantized_tiles import MAX_SPLIT_TILES, QuantizedTile, config_of
from windlass.kernels import QuantizedWeight
from windlass.kernels.triton.quantized_linear import QuantizedConfig, pack, quantized_linear
from windlass_cuda.device import tuning_of
from windlass_cuda.tuning import CudaTuning

FORMATS: tuple[Quantization, ...] = ("int8", "int4", "fp8")
SHAPES = {
    "qkv": (6144, 4096),
    "o": (4096, 4096),
    "gate_up": (28672, 4096),
    "down": (4096, 14336),
}
ROWS = (1, 8, 16, 64, 256)
CANDIDATES = {
    16: [(64, 4, 4), (64, 4, 6), (128, 4, 4), (128, 8, 4), (32, 4, 5)],
    64: [(64, 4, 3), (64, 4, 4), (128, 4, 3), (128, 8, 3)],
    128: [(128, 8, 3), (128, 8, 2), (128, 4, 3), (64, 4, 3)],
}
PROGRAMS = (1, 2, 4, 8)
CACHE_BYTES = 200e6
"""Weights in turn, so that none is still in the cache when it is read again."""
ERROR = 1.5e-2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--workers", type=int, default=12, help="processes that compile")
    parser.add_argument("--seconds", type=float, default=90, help="stop trying tiles after so long")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    args = parser.parse_args()
    properties = torch.cuda.get_device_properties(0)
    tuning = tuning_of(0)
    started = time.monotonic()
    bandwidth = copy_bandwidth()
    print(f"{properties.name}: copies at {bandwidth / 1e12:.2f} TB/s", flush=True)
    compile_all(tuning, args.workers)
    print(f"compiled after {time.monotonic() - started:.0f} s", flush=True)
    checked = [quantization for quantization in FORMATS if is_right(quantization, tuning)]
    results: list[dict[str, Any]] = []
    for name in args.shapes:
        exact = {rows: time_exact(*SHAPES[name], rows) for rows in ROWS}
        for quantization in checked:
            weights = packed_weights(*SHAPES[name], quantization, tuning)
            for rows in ROWS:
                quick = time.monotonic() - started > args.seconds
                result = measure(name, quantization, rows, weights, tuning, quick=quick)
                floor = result.pop("bytes") / bandwidth
                result |= {"bf16_us": exact[rows], "floor_us": floor * 1e6}
                results.append(result)
                print(line(result), flush=True)
    print_entries(results)
    print(f"{time.monotonic() - started:.0f} s", flush=True)
    if args.out:
        Path(args.out).write_text(json.dumps(results, indent=1) + "\n")


def candidates(rows: int) -> list[QuantizedTile]:
    most = next((most for most in CANDIDATES if rows <= most), max(CANDIDATES))
    return [
        QuantizedTile(most, *tile, programs)
        for tile in CANDIDATES[most]
        for programs in (PROGRAMS if rows <= 64 else (1, 2))
    ]


def tile_config(
    tile: QuantizedTile, tuning: CudaTuning, rows: int, channels: int, inputs: int
) -> QuantizedConfig:
    arguments, unpack = tuning.launch_arguments(), tuning.unpack
    return config_of(tile, tuning.units, rows, channels, inputs, arguments, unpack)


def compile_all(tuning: CudaTuning, workers: int) -> None:
    """Fill Triton's cache on disk; a tile that fails says so, here and when it is measured."""
    tiles = {tile._replace(programs=1) for rows in ROWS for tile in candidates(rows)}
    tasks = [(quantization, tile, tuning) for quantization in FORMATS for tile in sorted(tiles)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for problem in pool.map(compile_one, tasks, chunksize=2):
            if problem:
                print(problem, flush=True)


def compile_one(task: tuple[Quantization, QuantizedTile, CudaTuning]) -> str:
    quantization, tile, tuning = task
    try:
        weight = pack(torch.randn(1024, 4096, device="cuda"), quantization)
        x = torch.randn(min(tile.rows, 64), 4096, device="cuda", dtype=torch.bfloat16)
        for splits in (1, 2):
            config = tile_config(tile, tuning, len(x), 1024, 4096)
            run(x, weight, quantization, replace(config, splits=splits))
        torch.cuda.synchronize()
    except Exception as error:  # noqa: BLE001 - one tile that does not work stops no other
        return f"{quantization} {tile}: {type(error).__name__}: {str(error)[:200]}"
    return ""


def run(
    x: torch.Tensor,
    weight: tuple[torch.Tensor, torch.Tensor],
    quantization: Quantization,
    config: QuantizedConfig,
    counters: torch.Tensor | None = None,
) -> torch.Tensor:
    if counters is None:
        counters = torch.zeros(MAX_SPLIT_TILES, dtype=torch.int32, device="cuda")
    out = torch.empty(len(x), weight[0].shape[1], dtype=x.dtype, device="cuda")
    quantized_linear(x, *weight, None, out, counters, quantization, config)
    return out


def is_right(quantization: Quantization, tuning: CudaTuning) -> bool:
    """Whether the tiles in use give the reference's product, for odd sizes and every row count."""
    torch.manual_seed(0)
    worst = 0.0
    try:
        for channels, inputs in ((1000, 1088), (4096, 4096)):
            weight = torch.randn(channels, inputs, device="cuda", dtype=torch.bfloat16)
            values = QuantizedWeight(weight, quantization).values()
            packed = RoundedWeight(weight, quantization, tuning)
            for rows in (*ROWS, 3, 32, 33, 300):
                x = torch.randn(rows, inputs, device="cuda", dtype=torch.bfloat16)
                wanted = x.double() @ values.double().T
                for found in (packed.apply(x), packed.apply_float(x), packed.apply(x)):
                    difference = (found.double() - wanted).abs().max() / wanted.abs().max()
                    worst = max(worst, float(difference.nan_to_num(nan=1e9)))
    except Exception as error:  # noqa: BLE001 - the other formats may still work
        print(f"{quantization}: {type(error).__name__}: {str(error)[:500]}", flush=True)
        return False
    print(f"{quantization}: largest error {worst:.1e} of the largest output", flush=True)
    return worst < ERROR


def packed_weights(
    channels: int, inputs: int, quantization: Quantization, tuning: CudaTuning
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    weight = torch.randn(channels, inputs, device="cuda", dtype=torch.bfloat16) / 64
    numbers, scales = RoundedWeight(weight, quantization, tuning).packed
    copies = 1 + int(CACHE_BYTES / numbers.nbytes)
    return [(numbers.clone(), scales.clone()) for _ in range(copies)]


def measure(
    name: str,
    quantization: Quantization,
    rows: int,
    weights: Sequence[tuple[torch.Tensor, torch.Tensor]],
    tuning: CudaTuning,
    *,
    quick: bool,
) -> dict[str, Any]:
    """The time of the tile in use and of the best candidate, in microseconds."""
    channels, inputs = SHAPES[name]
    x = torch.randn(rows, inputs, device="cuda", dtype=torch.bfloat16)
    counters = torch.zeros(MAX_SPLIT_TILES, dtype=torch.int32, device="cuda")

    def timed(config: QuantizedConfig) -> float:
        return microseconds([partial(run, x, w, quantization, config, counters) for w in weights])

    in_use = timed(tuning.quantized_config(quantization, rows, channels, inputs))
    tried: dict[str, float] = {}
    seen: dict[Any, str] = {}
    for tile in [] if quick else candidates(rows):
        config = tile_config(tile, tuning, rows, channels, inputs)
        key = (*tile[:4], config.splits)
        if key in seen:
            tried[repr(tile)] = tried[seen[key]]
            continue
        seen[key] = repr(tile)
        try:
            tried[repr(tile)] = timed(config)
        except Exception as error:  # noqa: BLE001 - one tile that does not work stops no other
            print(f"{quantization} {tile}: {type(error).__name__}", flush=True)
            tried[repr(tile)] = float("inf")
    best = min(tried, key=tried.__getitem__) if tried else "in use"
    return {
        "layer": name,
        "format": quantization,
        "rows": rows,
        "us": in_use,
        "best_us": tried.get(best, in_use),
        "best": best,
        "bytes": sum(part.nbytes for part in weights[0]),
        "tried": tried,
    }


def time_exact(channels: int, inputs: int, rows: int) -> float:
    copies = 1 + int(CACHE_BYTES / (2 * channels * inputs))
    weights = [
        torch.randn(channels, inputs, device="cuda", dtype=torch.bfloat16) for _ in range(copies)
    ]
    x = torch.randn(rows, inputs, device="cuda", dtype=torch.bfloat16)
    return microseconds([partial(F.linear, x, weight) for weight in weights])


def microseconds(calls: Sequence[Callable[[], Any]], repetitions: int = 3) -> float:
    """The time of one call among `calls`, which run in a CUDA graph one after the other."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        calls[0]()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    count = max(1, 24 // len(calls)) * len(calls)
    with torch.cuda.graph(graph):
        for index in range(count):
            calls[index % len(calls)]()
    graph.replay()
    times = []
    for _ in range(repetitions):
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000 / count)
    return float(min(times))


def copy_bandwidth() -> float:
    """Bytes read and written in a second by a large copy."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / microseconds([lambda: target.copy_(source)]) * 1e6


def line(result: dict[str, Any]) -> str:
    share, ratio = result["floor_us"] / result["us"], result["bf16_us"] / result["us"]
    return (
        f"{result['layer']:8} {result['format']} rows {result['rows']:4}: {result['us']:7.1f} us, "
        f"{share:4.0%} of bandwidth, {ratio:.2f}x bf16 ({result['bf16_us']:.1f}); best "
        f"{result['best_us']:.1f} us {result['best']}"
    )


def print_entries(results: Sequence[dict[str, Any]]) -> None:
    """For each format and number of rows the tile with the smallest sum of times over layers."""
    sums: dict[tuple[str, int], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for result in results:
        for tile, duration in result["tried"].items():
            sums[result["format"], result["rows"]][tile] += duration
    for (quantization, rows), tiles in sums.items():
        ranked = sorted(tiles, key=tiles.__getitem__)[:3]
        shown = "; ".join(f"{tile} {tiles[tile]:.1f} us" for tile in ranked)
        print(f"{quantization} rows {rows}: {shown}", flush=True)


if __name__ == "__main__":
    main()
