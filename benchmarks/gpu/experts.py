"""How fast the experts of a sparse feed-forward layer are, and which tiles suit them.

Layers of Qwen3-30B-A3B and Mixtral-8x7B in bf16. First every number of tokens is compared with
fp32 and timed with the tiles of the plugin's table; what is left of `--seconds` goes to other
tiles. Times are of routing and experts together, replayed as a graph over inputs that choose other
experts each time, so that the cache holds no weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from gpu_peers.ceilings import measure_ceilings, synchronize
from gpu_peers.floors import Ceilings
from windlass.backend.triton.expert_tiles import choose
from windlass.kernels import DenseExperts
from windlass.kernels.triton.grouped_linear import ExpertsConfig, grouped_experts
from windlass.kernels.triton.routing import route
from windlass_cuda.device import tuning_of
from windlass_cuda.tuning import CudaTuning

TOKENS = (1, 8, 64, 256, 4096)
TOLERANCE = 2e-2
INPUTS, REPLAYS = 6, 15

# Of a tile: outputs, inputs at a time, warps, stages, whether weights are the left operand.
GATE_UP = {
    16: ((32, 128, 4, 4, False), (64, 64, 4, 4, True), (64, 64, 4, 6, True),
         (64, 128, 4, 3, True), (32, 256, 4, 3, False), (16, 256, 2, 3, False)),
    32: ((64, 64, 4, 4, True), (64, 128, 4, 3, True), (32, 128, 4, 4, False)),
    64: ((64, 64, 4, 4, False), (128, 64, 8, 3, False), (64, 64, 4, 3, True)),
    128: ((128, 64, 8, 3, False), (64, 64, 8, 4, False), (64, 64, 4, 3, False),
          (128, 64, 8, 4, False)),
}  # fmt: skip
DOWN = {
    16: ((32, 128, 4, 4, False), (64, 128, 4, 3, True), (64, 64, 4, 6, True),
         (64, 128, 4, 5, True), (16, 256, 2, 3, False)),
    32: ((64, 128, 4, 3, True), (64, 64, 4, 5, True), (128, 64, 8, 3, True)),
    64: ((128, 64, 4, 4, False), (64, 64, 4, 4, False), (128, 64, 8, 4, False)),
    128: ((128, 64, 8, 4, False), (128, 64, 8, 3, False), (256, 64, 8, 3, False),
          (128, 64, 4, 3, False)),
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A sparse feed-forward layer."""

    name: str
    experts: int
    top_k: int
    hidden: int
    intermediate: int

    @property
    def expert_bytes(self) -> int:
        """Of one expert in bf16."""
        return 2 * 3 * self.hidden * self.intermediate


SHAPES = (Shape("qwen3-30b-a3b", 128, 8, 2048, 768), Shape("mixtral-8x7b", 8, 2, 4096, 14336))


@dataclass
class Result:
    """One timing: `error` is the largest difference from fp32 by the largest result."""

    shape: str
    tokens: int
    tiles: str
    microseconds: float = 0.0
    bandwidth_share: float = 0.0
    matrix_share: float = 0.0
    error: float = 0.0
    failure: str = ""


class Layer:
    """A layer's random weights, and inputs that choose different experts."""

    def __init__(self, shape: Shape, tuning: CudaTuning, device: torch.device) -> None:
        self.shape, self.device = shape, device
        self.route_config = tuning.route_config()
        experts, hidden, intermediate = shape.experts, shape.hidden, shape.intermediate
        self.gate_up = self._random(experts, 2 * intermediate, hidden) * hidden**-0.5
        self.down = self._random(experts, hidden, intermediate) * intermediate**-0.5

    def _random(self, *shape: int) -> torch.Tensor:
        dtype = torch.float16 if self.device.type == "cpu" else torch.bfloat16
        return torch.randn(*shape, dtype=dtype, device=self.device)

    def inputs(self, tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Hidden states and router logits."""
        hidden, experts = self.shape.hidden, self.shape.experts
        return [
            (self._random(tokens, hidden), self._random(tokens, experts)) for _ in range(INPUTS)
        ]

    def run(
        self, x: torch.Tensor, logits: torch.Tensor, config: ExpertsConfig
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The layer's output, and the routing."""
        weights, ids = route(logits, self.shape.top_k, True, self.route_config)
        out = grouped_experts(x, self.gate_up, self.down, weights, ids, config)
        return out, weights, ids

    def error(self, x: torch.Tensor, logits: torch.Tensor, config: ExpertsConfig) -> float:
        """Largest difference from fp32 arithmetic over the same routing."""
        found, weights, ids = self.run(x, logits, config)
        exact = torch.zeros_like(found, dtype=torch.float32)
        for expert in sorted(set(ids.flatten().tolist())):
            tokens, choice = (ids == expert).nonzero(as_tuple=True)
            one = DenseExperts(self.gate_up[expert, None].float(), self.down[expert, None].float())
            every = torch.zeros(len(tokens), 1, dtype=torch.int32, device=x.device)
            part = weights[tokens, choice, None]
            exact.index_add_(0, tokens, one.sum_over_chosen(x[tokens].float(), part, every))
        return float((found.float() - exact).abs().max() / exact.abs().max())

    def hit(self, inputs: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
        """Experts that an input chooses, on average."""
        chosen = [logits.float().topk(self.shape.top_k).indices for _, logits in inputs]
        return sum(len(ids.unique()) for ids in chosen) / len(chosen)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all shapes and print the results; 1 if a result of the table's tiles is wrong."""
    args = parse_arguments(arguments)
    started = time.monotonic()
    device = torch.device(args.device)
    on_host = device.type == "cpu"
    tuning = CudaTuning("sm_80", 4, "cpu") if on_host else tuning_of(device.index)
    choices = tuning.expert_choices(torch.bfloat16.itemsize)
    ceilings = measure_ceilings(device)
    console = Console(highlight=False, width=118)
    console.print(
        f"copy {ceilings.bandwidth / 1e12:.2f} TB/s, bf16 {ceilings.flops / 1e12:.0f} TFLOP/s"
    )
    results: list[Result] = []
    sweeps = []
    torch.manual_seed(0)
    for shape in SHAPES:
        small = replace(shape, hidden=shape.hidden // args.shrink,
                        intermediate=shape.intermediate // args.shrink)  # fmt: skip
        layer = Layer(small, tuning, device)
        for tokens in args.tokens:
            config = choose(choices, tokens, shape.top_k, shape.experts)
            results.append(attempt(layer, tokens, config, "table", ceilings))
            sweeps.append(variants(layer, tokens, config))
            save(results, args.out)
    show(results, console)
    number = len(results)
    for layer, tokens, config, tiles in turns(sweeps):
        if time.monotonic() - started > args.seconds:
            break
        results.append(attempt(layer, tokens, config, tiles, ceilings))
        save(results, args.out)
    show(sorted(results, key=lambda r: (r.shape, r.tokens, r.failure, r.microseconds)), console)
    return int(any(result.failure for result in results[:number]))


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--tokens", type=int, nargs="+", default=TOKENS)
    add("--seconds", type=float, default=60, help="until no other tiles are tried (default: 60)")
    add("--device", default="cuda")
    add("--shrink", type=int, default=1, help="divide the layers' sizes, for a trial")
    add("--out", type=Path, metavar="FILE", help="write the results as JSON")
    return parser.parse_args(arguments)


Variant = tuple[Layer, int, ExpertsConfig, str]


def variants(layer: Layer, tokens: int, config: ExpertsConfig) -> Iterator[Variant]:
    """Other tiles for one product or the other."""
    for field, table in (("gate_up", GATE_UP), ("down", DOWN)):
        product = getattr(config, field)
        for n, k, warps, stages, swap in table[config.block_m]:
            other = replace(
                product, block_n=n, block_k=k, num_warps=warps, num_stages=stages, swap=swap
            )
            if other != product:
                tiles = f"{field} {n}x{k} w{warps} s{stages}" + (" swap" if swap else "")
                yield layer, tokens, replace(config, **{field: other}), tiles


def turns(sweeps: list[Iterator[Variant]]) -> Iterator[Variant]:
    """One variant of each sweep, then the next of each."""
    while sweeps:
        for sweep in list(sweeps):
            found = next(sweep, None)
            if found is None:
                sweeps.remove(sweep)
            else:
                yield found


def attempt(
    layer: Layer, tokens: int, config: ExpertsConfig, tiles: str, ceilings: Ceilings
) -> Result:
    """Check and time one configuration; whatever goes wrong is the result."""
    shape = layer.shape
    result = Result(shape.name, tokens, f"m{config.block_m} {tiles}")
    try:
        inputs = layer.inputs(tokens)
        result.error = layer.error(*inputs[0], config)
        if not result.error < TOLERANCE:
            result.failure = f"wrong: {result.error:.1e}"
            return result
        calls = [lambda x=x, logits=logits: layer.run(x, logits, config) for x, logits in inputs]
        seconds = time_of(calls, layer.device) / len(calls)
        result.microseconds = seconds * 1e6
        needed = layer.hit(inputs) * shape.expert_bytes
        result.bandwidth_share = needed / seconds / ceilings.bandwidth
        work = tokens * shape.top_k * shape.expert_bytes
        result.matrix_share = work / seconds / ceilings.flops
    except Exception as error:  # noqa: BLE001 - the others go on
        result.failure = f"{type(error).__name__}: {error}".splitlines()[0][:80]
    return result


def time_of(calls: Sequence[Callable[[], object]], device: torch.device) -> float:
    """Median seconds of all calls together, as a graph where there is a device."""

    def all_calls() -> None:
        for call in calls:
            call()

    all_calls()
    synchronize(device)
    if device.type == "cpu":
        started = time.perf_counter()
        all_calls()
        return time.perf_counter() - started
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        all_calls()
    graph.replay()
    times = []
    for _ in range(REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return sorted(times)[len(times) // 2]


def save(results: list[Result], path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


def show(results: list[Result], console: Console) -> None:
    table = Table("layer", "tokens", "tiles", "us", "of copy", "of matrix rate", "error", "failure")
    for result in results:
        table.add_row(
            result.shape,
            str(result.tokens),
            result.tiles,
            f"{result.microseconds:.1f}",
            f"{result.bandwidth_share:.0%}",
            f"{result.matrix_share:.0%}",
            f"{result.error:.1e}",
            result.failure,
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
