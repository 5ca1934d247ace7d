"""Linear layers over few rows: every tile against the vendor's library, and whole fused layers.

Each call of a measured graph reads another copy of the weight, so that none comes from the cache.
Compiling takes longest, so processes do it side by side first. The last lines of each part are the
entries for `windlass_cuda.linear_tuning`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from gpu_peers.ceilings import measure_ceilings
from linear_layers import measure_layers
from linear_tiles import EPS, Task, compile_all, config_of, dot_tiles, vector_tiles
from windlass.backend.triton.linear_tiles import Tiles
from windlass.kernels.reference import add_rms_norm, silu_mul
from windlass.kernels.triton.fused_linear import LinearConfig, Norm, fused_linear
from windlass.kernels.triton.launch import no_wait
from windlass.kernels.triton.skinny_linear import skinny_linear, split_counters
from windlass_cuda.device import tuning_of

SHAPES = {
    "llama-8b qkv": (6144, 4096),
    "llama-8b o": (4096, 4096),
    "llama-8b gate_up": (28672, 4096),
    "llama-8b down": (4096, 14336),
    "llama-8b lm_head": (128256, 4096),
    "qwen3-8b gate_up": (24576, 4096),
    "qwen3-8b down": (4096, 12288),
    "qwen3-8b lm_head": (151936, 4096),
    "qwen3-0.6b qkv": (4096, 1024),
    "qwen3-0.6b o": (1024, 2048),
    "qwen3-0.6b gate_up": (6144, 1024),
    "qwen3-0.6b down": (1024, 3072),
    "qwen3-0.6b lm_head": (151936, 1024),
}
FUSED = {
    "llama-8b qkv": False,
    "llama-8b gate_up": True,
    "qwen3-8b gate_up": True,
    "qwen3-0.6b qkv": False,
    "qwen3-0.6b gate_up": True,
}
"""Products with a norm before them, by whether a gate comes after."""
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
QUICK_ROWS = (1, 4, 16, 64)
CACHE_BYTES = 128 << 20
"""Copies of a weight take more than this: twice the largest cache."""
MEASURED_BYTES = 2 << 30
"""What the calls of one measurement read at least, up to 160 calls."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, measure and print; write everything as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows and tiles")
    parser.add_argument("--only", default="", help="shapes whose name contains this")
    parser.add_argument("--no-layers", action="store_true", help="only single products")
    parser.add_argument("--eviction", default="evict_first", help="Triton's policy for weights")
    parser.add_argument("--workers", type=int, default=14, help="processes that compile")
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args(arguments)
    shapes = {name: shape for name, shape in SHAPES.items() if args.only in name}
    rows = QUICK_ROWS if args.quick else ROWS
    bench = Bench(args.quick, args.eviction)
    print(
        f"{bench.arch}, {bench.multiprocessors} multiprocessors, copy {bench.copy / 1e9:.0f} GB/s"
    )
    report: dict[str, Any] = {"arch": bench.arch, "copy": bench.copy, "linear": [], "fused": []}
    if not args.no_layers:
        report["layers"] = measure_layers(bench.tuning)
    started = time.monotonic()
    compile_all(tasks(shapes.values(), rows, bench), args.workers)
    print(f"compiled in {time.monotonic() - started:.0f} s", flush=True)
    for name, shape in shapes.items():
        report["linear"] += bench.shape(name, *shape, rows)
        if name in FUSED:
            report["fused"] += bench.fused_shape(name, *shape, rows, gated=FUSED[name])
        if args.out:
            args.out.write_text(json.dumps(report, indent=1))
    show_entries(report, bench)
    return 0


def plain_tiles(rows: int, outputs: int, inputs: int, bench: Bench) -> list[Tiles]:
    """What is tried for a product alone: the rule's choice, and more."""
    default = bench.tuning.linear_config(rows, outputs, inputs)
    found = [] if default is None else [tiles_of(default)]
    if rows <= 8:
        found += vector_tiles(rows, inputs, gated=False, quick=bench.quick)
    if 2 <= rows <= 64:
        found += dot_tiles(rows, outputs, inputs, bench.multiprocessors, quick=bench.quick)
    return list(dict.fromkeys(found))


def fused_tiles(rows: int, outputs: int, inputs: int, gated: bool, bench: Bench) -> list[Tiles]:
    """What is tried for a product with a norm before it; `outputs` are those after the gate."""
    default = bench.tuning.fused_config(rows, outputs, inputs, gated=gated)
    found = [] if default is None else [tiles_of(default)]
    found += vector_tiles(rows, inputs, gated=gated, quick=bench.quick)
    return list(dict.fromkeys(found))


def tasks(
    shapes: Iterable[tuple[int, int]], rows: Sequence[int], bench: Bench
) -> list[tuple[Task, str, str]]:
    """Every kernel once."""
    found: dict[Task, None] = {}
    for outputs, inputs in shapes:
        for count in rows:
            for tiles in plain_tiles(count, outputs, inputs, bench):
                found[Task(inputs, tiles)] = None
    for name, gated in FUSED.items():
        outputs, inputs = SHAPES[name]
        if (outputs, inputs) in shapes:
            results = outputs // 2 if gated else outputs
            for count in (count for count in rows if count <= 8):
                for tiles in fused_tiles(count, results, inputs, gated, bench):
                    found[Task(inputs, tiles, normed=True, gated=gated)] = None
    return [(task, bench.arch, bench.eviction) for task in found]


class Bench:
    """One GPU with its ceilings; every method returns rows of the report."""

    def __init__(self, quick: bool, eviction: str) -> None:
        self.quick, self.eviction = quick, eviction
        self.tuning = tuning_of(0)
        self.arch = self.tuning.arch
        self.multiprocessors = self.tuning.units
        self.copy = measure_ceilings(torch.device("cuda")).bandwidth

    def shape(
        self, name: str, outputs: int, inputs: int, rows: Sequence[int]
    ) -> list[dict[str, Any]]:
        """The library and every tile for one weight."""
        weights = copies(outputs, inputs)
        counters = split_counters(outputs, weights[0].device)
        found = []
        for count in rows:
            x = torch.randn(count, inputs, device="cuda").bfloat16()
            library = measure(lambda w, x=x: F.linear(x, w), weights)
            default = self.tuning.linear_config(count, outputs, inputs)
            times = {}
            for tiles in plain_tiles(count, outputs, inputs, self):
                config = config_of(tiles, self.arch, self.eviction)
                times[tiles] = self.time(
                    lambda w, c=config, x=x: skinny_linear(x, w, None, c, counters=counters),
                    weights,
                    F.linear(x, weights[0]),
                    tiles,
                )
            row = self.row(name, count, outputs, inputs, library, times, default)
            if times:
                best = min(times, key=lambda key: times[key])
                alone = replace(
                    config_of(best, self.arch, self.eviction),
                    wait=no_wait,
                    release=no_wait,
                    options=(),
                )
                row["alone"] = measure(
                    lambda w, c=alone, x=x: skinny_linear(x, w, None, c, counters=counters), weights
                )
            self.show(row)
            found.append(row)
        return found

    def fused_shape(
        self, name: str, outputs: int, inputs: int, rows: Sequence[int], *, gated: bool
    ) -> list[dict[str, Any]]:
        """Norm, product and gate as one kernel, against the library between plain operations."""
        weights = copies(outputs, inputs)
        factors = torch.ones(inputs, device="cuda").bfloat16()
        norm = Norm(factors, EPS)
        results = outputs // 2 if gated else outputs
        found = []
        for count in (count for count in rows if count <= 8):
            x, residual = torch.randn(2, count, inputs, device="cuda").bfloat16().unbind()

            def apart(w: torch.Tensor, x: torch.Tensor = x, r: torch.Tensor = residual) -> Any:  # noqa: ANN401
                out = F.linear(add_rms_norm(x, r, factors, EPS)[0], w)
                return silu_mul(out) if gated else out

            times = {}
            for tiles in fused_tiles(count, results, inputs, gated, self):
                config = config_of(tiles, self.arch, self.eviction)
                times[tiles] = self.time(
                    lambda w, c=config, x=x, r=residual: fused_linear(
                        x, w, None, c, norm=norm, residual=r, gated=gated
                    )[0],
                    weights,
                    apart(weights[0]),
                    tiles,
                )
            library = measure(lambda w, x=x: F.linear(x, w), weights)
            default = self.tuning.fused_config(count, results, inputs, gated=gated)
            row = self.row(f"{name} fused", count, results, inputs, library, times, default)
            row["gated"] = gated
            row["bytes"] = outputs * inputs * 2
            self.show(row)
            found.append(row)
        return found

    def time(
        self,
        call: Callable[[torch.Tensor], torch.Tensor],
        weights: Sequence[torch.Tensor],
        expected: torch.Tensor,
        tiles: Tiles,
    ) -> float:
        """Microseconds of a call; infinite where it fails or is wrong."""
        try:
            for _ in range(2):  # the second finds the counters as the first left them
                torch.testing.assert_close(call(weights[0]), expected, rtol=2e-2, atol=2e-2)
            return measure(call, weights)
        except Exception as error:  # noqa: BLE001 - one tile that does not work stops no other
            print(f"  {tiles}: {type(error).__name__}: {str(error)[:300]}")
            return float("inf")

    def row(
        self,
        name: str,
        rows: int,
        outputs: int,
        inputs: int,
        library: float,
        times: dict[Tiles, float],
        default: LinearConfig | None,
    ) -> dict[str, Any]:
        """One line of the report; times in microseconds."""
        best = min(times, key=lambda key: times[key], default=None)
        return {
            "name": name,
            "rows": rows,
            "outputs": outputs,
            "inputs": inputs,
            "bytes": outputs * inputs * 2,
            "library": library,
            "best": best,
            "time": times[best] if best else None,
            "default": times.get(tiles_of(default)) if default else library,
            "times": [(*tiles, time) for tiles, time in times.items()],
        }

    def show(self, row: dict[str, Any]) -> None:
        """Print a line: shares are of the copy bandwidth."""

        def share(time: float | None) -> str:
            if time is None or time == float("inf"):
                return "         -"
            return f"{time:7.1f} us {row['bytes'] / time / 1e-6 / self.copy:4.0%}"

        alone = f"  alone {share(row.get('alone'))}" if "alone" in row else ""
        print(
            f"{row['name']:>25} x{row['rows']:<3}  library {share(row['library'])}"
            f"  ours {share(row['time'])}  default {share(row['default'])}{alone}"
            f"  {tuple(row['best']) if row['best'] else ''}",
            flush=True,
        )


def tiles_of(config: LinearConfig) -> Tiles:
    """The tiles of a config."""
    return Tiles(*(getattr(config, name) for name in Tiles._fields))


def copies(outputs: int, inputs: int) -> list[torch.Tensor]:
    """Random weights, together larger than any cache, with outputs of about 1."""
    count = -(-CACHE_BYTES // (outputs * inputs * 2)) + 1
    first = (torch.randn(outputs, inputs, device="cuda") * inputs**-0.5).bfloat16()
    return [first, *(first.clone() for _ in range(count - 1))]


def measure(call: Callable[[torch.Tensor], Any], weights: Sequence[torch.Tensor]) -> float:
    """Microseconds of a call among many in one graph, the best of some replays."""
    call(weights[0])
    torch.cuda.synchronize()
    calls = min(160, max(8, MEASURED_BYTES // weights[0].nbytes))
    repeats = -(-calls // len(weights))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            for weight in weights:
                call(weight)
    best = float("inf")
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    for _ in range(4):
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end))
    graph.reset()
    return best * 1000 / (repeats * len(weights))


def show_entries(report: dict[str, Any], bench: Bench) -> None:
    """Print what belongs into the tuning table: where the rule is not within 3 % of the best."""
    for part in ("linear", "fused"):
        print(f"\n# windlass_cuda.linear_tuning: {part}, {bench.arch}")
        for row in report[part]:
            if row["rows"] > 64 or row["time"] is None:
                continue
            ours = row["time"] < row["library"] or part == "fused"
            fastest = row["time"] if ours else row["library"]
            if row["default"] is not None and row["default"] <= 1.03 * fastest:
                continue
            key: tuple[Any, ...] = (row["outputs"], row["inputs"], row["rows"])
            key = (*key, row["gated"]) if part == "fused" else key
            value = f"Tiles{tuple(row['best'])}" if ours else "None"
            print(f"        {key}: {value},")


if __name__ == "__main__":
    raise SystemExit(main())
