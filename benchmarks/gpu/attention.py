"""Attention of the cuda plugin: is it right, how near to the memory's speed, which settings win.

Decodes are timed as CUDA graphs over layers that do not fit the second-level cache together, and
compared with a copy's bytes a second. Prompts are timed by each provider and by settings of
Triton's kernel. A variant that fails is reported, and the next one runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from windlass.backend import AttentionBatch, AttentionParams, KVLayout, KVPool, KVSpec
from windlass.backend.triton.prefill_providers import Chunks, PrefillProvider, upload
from windlass.kernels.attention import paged_attention
from windlass.kernels.triton.decode_plan import DecodeConfig, DecodeScratch, plan_decode
from windlass.kernels.triton.paged_decode import paged_decode
from windlass.kernels.triton.paged_prefill import PrefillConfig, list_query_tiles, paged_prefill
from windlass_cuda.device import tuning_of
from windlass_cuda.torch_prefill import installed_providers
from windlass_cuda.tuning import CudaTuning

DEVICE = torch.device("cuda")
DTYPE = torch.bfloat16
BLOCK = 64
MODELS = {"Llama-8B": (32, 8, 128), "Qwen3-0.6B": (16, 8, 128)}
"""Query heads, key-value heads, channels."""
ROTATION_BYTES = 400 << 20
"""Keys and values of all layers of a graph: several times a second-level cache."""
TOLERANCE = 2e-2

Shape = tuple[int, int, int]
Maker = Callable[[], tuple[Callable[[], None], torch.Tensor]]
"""Makes work, and the tensor that it writes."""


class Report:
    """Prints rows and keeps them."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def attempt(self, names: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
        """Measure, or say what failed."""
        try:
            figures = measure()
        except Exception as error:  # noqa: BLE001 - the other variants are worth their figures
            figures = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        row = {**names, **figures}
        self.rows.append(row)
        print("  ".join(f"{key}={_short(value)}" for key, value in row.items()), flush=True)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def make_step(
    shape: Shape, chunks: list[tuple[int, int]], num_layers: int = 1
) -> tuple[KVPool, AttentionBatch, torch.Tensor]:
    """A pool of random numbers and a step of (query tokens, cached tokens) over it."""
    heads, kv_heads, head_dim = shape
    query_lens = [new for new, _ in chunks]
    seq_lens = [new + history for new, history in chunks]
    counts = [-(-length // BLOCK) for length in seq_lens]
    num_blocks = sum(counts) + 1
    spec = KVSpec(num_kv_heads=kv_heads, head_dim=head_dim, dtype=DTYPE)
    layout = KVLayout(order="LBHNC", block_size=BLOCK)
    nbytes = num_blocks * layout.block_bytes(spec, num_layers)
    buffer = torch.empty(nbytes, dtype=torch.uint8, device=DEVICE)
    buffer.view(DTYPE).normal_()
    pool = KVPool.carve(buffer, spec, layout, num_layers, num_blocks)
    order = iter((torch.randperm(num_blocks - 1) + 1).tolist())
    columns = -(-max(counts) // 16) * 16
    table = [[*itertools.islice(order, count), *[0] * (columns - count)] for count in counts]
    starts = [0, *itertools.accumulate(query_lens)]
    decodes = sum(new == 1 for new in query_lens)
    batch = AttentionBatch(
        cu_seqlens_q=upload(starts, DEVICE),
        seq_lens=upload(seq_lens, DEVICE),
        block_table=upload(table, DEVICE),
        slot_mapping=torch.full((starts[-1],), -1, device=DEVICE),
        num_decodes=decodes,
        max_query_len=max(query_lens),
        max_seq_len=max(seq_lens),
        cu_seqlens_q_cpu=starts,
        seq_lens_cpu=seq_lens,
    )
    return pool, batch, torch.randn(starts[-1], heads, head_dim, dtype=DTYPE, device=DEVICE)


def params_of(shape: Shape) -> AttentionParams:
    return AttentionParams(scale=shape[2] ** -0.5)


def seconds_of(work: Callable[[], object], repeats: int) -> float:
    """Seconds of one call, the best of three rounds of `repeats`."""
    work()
    best = float("inf")
    for _ in range(3):
        start, end = (torch.Event(DEVICE.type, enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            work()
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 1e3 / repeats)
    return best


def copy_bandwidth() -> float:
    """Bytes a second that a large copy reads and writes."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device=DEVICE).fill_(1)
    target = torch.empty_like(source)
    return 2 * len(source) / seconds_of(lambda: target.copy_(source), 10)


def decode_run(
    pool: KVPool, batch: AttentionBatch, query: torch.Tensor, config: DecodeConfig, units: int
) -> tuple[Callable[[], None], torch.Tensor]:
    """Work of a step in all layers of the pool, plan included, and its output."""
    spec, out = pool.spec, torch.empty_like(query)
    scale = params_of((0, 0, spec.head_dim)).scale

    def work() -> None:
        plan = plan_decode(
            batch.seq_lens,
            batch.block_table,
            spec.num_kv_heads,
            units,
            batch.max_seq_len,
            0,
            config,
        )
        group = query.shape[1] // spec.num_kv_heads
        scratch = DecodeScratch.allocate(plan.num_programs, group, spec.head_dim, DEVICE)
        for keys, values in zip(pool.keys, pool.values, strict=True):
            paged_decode(query, keys, values, out, None, plan, scratch, scale=scale)

    return work, out


def decode_microseconds(work: Callable[[], None], num_layers: int) -> float:
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return seconds_of(graph.replay, 5) * 1e6 / num_layers


def lengths_of(workload: str) -> list[int]:
    generator = random.Random(0)
    if workload == "1x64k + 15x4k":
        return [65536] + [4096] * 15
    if workload == "256 of U(100, 1024)":
        return [generator.randint(100, 1024) for _ in range(256)]
    rows, context = workload.split(" x ")
    return [int(context)] * int(rows)


class DecodeBench:
    """One workload, whose memory all its variants share."""

    def __init__(self, shape: Shape, workload: str, copy: float) -> None:
        lengths = lengths_of(workload)
        self.copy = copy
        self.bytes = sum(lengths) * 2 * shape[1] * shape[2] * DTYPE.itemsize
        self.layers = min(64, max(2, -(-ROTATION_BYTES // self.bytes)))
        self.step = make_step(shape, [(1, length - 1) for length in lengths], self.layers)
        self.units = torch.cuda.get_device_properties(0).multi_processor_count

    def measure(self, config: DecodeConfig) -> dict[str, Any]:
        """Time a layer, bytes a second, and their part of what a copy reaches."""
        work, _ = decode_run(*self.step, config, self.units)
        microseconds = decode_microseconds(work, self.layers)
        rate = self.bytes / microseconds * 1e6
        return {"us": microseconds, "GB/s": rate / 1e9, "of copy": rate / self.copy}


def bench_decodes(report: Report, tuning: CudaTuning, copy: float, quick: bool) -> None:
    sizes = [1, 64] if quick else [1, 8, 64, 256]
    uniform = [f"{rows} x {context}" for rows in sizes for context in (512, 2048, 8192)]
    for (model, shape), workload in itertools.product(
        MODELS.items(), [*uniform, "1x64k + 15x4k", "256 of U(100, 1024)"]
    ):
        config = tuning.decode_config(shape[2], DTYPE, DTYPE)
        report.attempt(
            {"decode": model, "workload": workload},
            lambda: DecodeBench(shape, workload, copy).measure(config),  # noqa: B023 - called here
        )


def decode_variants(base: DecodeConfig, quick: bool) -> Iterator[DecodeConfig]:
    warps, stages = ((4,), (3, 5)) if quick else ((2, 4, 8), (3, 5, 7))
    for num_warps, num_stages, programs in itertools.product(warps, stages, (1, 2, 3, 4)):
        yield replace(base, num_warps=num_warps, num_stages=num_stages, programs_per_unit=programs)
    for minimum_run in (1, 4):
        yield replace(base, minimum_run=minimum_run)
    if not quick:
        yield replace(base, combine_numbers=2048)
        yield replace(base, combine_numbers=8192)
        yield replace(base, tile=32)
        yield replace(base, tile=128)


def sweep_decodes(report: Report, tuning: CudaTuning, copy: float, quick: bool) -> None:
    workloads = ["1 x 2048", "64 x 2048", "1x64k + 15x4k", "256 of U(100, 1024)"]
    shape = MODELS["Llama-8B"]
    benches = {workload: DecodeBench(shape, workload, copy) for workload in workloads}
    for config in decode_variants(tuning.decode_config(shape[2], DTYPE, DTYPE), quick):

        def measure(config: DecodeConfig = config) -> dict[str, Any]:
            return {name: bench.measure(config)["us"] for name, bench in benches.items()}

        report.attempt(
            {
                "sweep": "us",
                "tile": config.tile,
                "warps": config.num_warps,
                "stages": config.num_stages,
                "programs": config.programs_per_unit,
                "run": config.minimum_run,
                "combine": config.combine_numbers,
            },
            measure,
        )


def triton_prefill(
    pool: KVPool, batch: AttentionBatch, query: torch.Tensor, config: PrefillConfig
) -> tuple[Callable[[], None], torch.Tensor]:
    """Work of all the step's rows in layer 0, and its output."""
    spec, out = pool.spec, torch.empty_like(query)
    chunks = _all(batch)
    group = query.shape[1] // spec.num_kv_heads
    rows = range(batch.num_requests)
    listed = list_query_tiles(rows, chunks.query_lens, chunks.seq_lens, group, config)
    tiles = upload(listed, DEVICE)
    scale = params_of((0, 0, spec.head_dim)).scale

    def work() -> None:
        paged_prefill(
            query,
            pool.keys[0],
            pool.values[0],
            out,
            None,
            tiles,
            batch.cu_seqlens_q,
            batch.seq_lens,
            batch.block_table,
            config,
            scale=scale,
        )

    return work, out


def prefill_runs(
    step: tuple[KVPool, AttentionBatch, torch.Tensor], tuning: CudaTuning, shape: Shape, quick: bool
) -> Iterator[tuple[str, Maker]]:
    """Name and maker of each way to compute a step of chunks."""
    pool, batch, query = step
    base = tuning.prefill_config(shape[2], DTYPE, shape[0] // shape[1])
    yield "triton", lambda: triton_prefill(*step, base)
    variants = [(128, 64, 8, 5), (128, 64, 4, 3), (64, 64, 4, 3), (128, 128, 8, 3)]
    for rows, tile, warps, stages in [] if quick else variants:
        config = replace(base, query_rows=rows, tile=tile, num_warps=warps, num_stages=stages)
        name = f"triton {rows}x{tile} warps {warps} stages {stages}"
        yield name, partial(triton_prefill, *step, config)
    whole = _all(batch).query_lens == batch.seq_lens_cpu
    for name, provider in installed_providers().items():
        if name == "cudnn" and not whole:
            continue

        def make(provider: PrefillProvider = provider) -> tuple[Callable[[], None], torch.Tensor]:
            out, chunks = torch.empty_like(query), _all(batch)
            params, config = params_of(shape), tuning.gather_config()
            keys, values = pool.keys[0], pool.values[0]
            return lambda: provider.run(query, keys, values, chunks, params, out, config), out

        yield name, make


def _all(batch: AttentionBatch) -> Chunks:
    return Chunks(batch=batch, first_row=0, end_row=batch.num_requests)


def bench_prefills(report: Report, tuning: CudaTuning, quick: bool) -> None:
    chunks = [(512, 0), (2048, 0), (8192, 0), (2048, 6144)]
    for (model, shape), (new, history) in itertools.product(MODELS.items(), chunks):
        step = make_step(shape, [(new, history)])
        pairs = new * history + new * (new + 1) // 2
        operations = 4 * shape[0] * shape[2] * pairs
        for name, make in prefill_runs(step, tuning, shape, quick or model != "Llama-8B"):

            def measure(make: Maker = make, operations: int = operations) -> dict[str, Any]:
                started = time.perf_counter()
                work, _ = make()
                work()
                torch.cuda.synchronize()
                first = time.perf_counter() - started
                seconds = seconds_of(work, 5)
                figures = {"us": seconds * 1e6, "TFLOP/s": operations / seconds / 1e12}
                return {**figures, "first call ms": first * 1e3}

            report.attempt({"prefill": model, "new": new, "cached": history, "by": name}, measure)


def cudnn_plan_time(report: Report, tuning: CudaTuning) -> None:
    """What cuDNN takes when it meets a length for the first time."""
    shape = MODELS["Llama-8B"]
    step = make_step(shape, [(3000, 0)])

    def measure() -> dict[str, Any]:
        runs = dict(prefill_runs(step, tuning, shape, True))
        work, _ = runs["cudnn"]()
        times = []
        for _ in range(2):
            torch.cuda.synchronize()
            started = time.perf_counter()
            work()
            torch.cuda.synchronize()
            times.append((time.perf_counter() - started) * 1e3)
        return {"first ms": times[0], "second ms": times[1]}

    report.attempt({"cudnn": "a new length"}, measure)


def check(report: Report, tuning: CudaTuning) -> None:
    """Everything against the float32 oracle."""
    units = torch.cuda.get_device_properties(0).multi_processor_count
    for shape in ((32, 8, 128), (14, 2, 64), (8, 4, 256)):
        step = make_step(shape, [(1, length - 1) for length in (1, 63, 64, 700, 5000, 129)])
        config = tuning.decode_config(shape[2], DTYPE, DTYPE)
        report.attempt(
            {"check": "decode", "shape": shape},
            lambda: _error(step, shape, *decode_run(*step, config, units)),  # noqa: B023
        )
        for chunks in ([(300, 0), (1024, 0)], [(300, 200), (64, 1000), (513, 0)]):
            step = make_step(shape, chunks)
            for name, make in prefill_runs(step, tuning, shape, True):
                report.attempt(
                    {"check": name, "shape": shape, "chunks": chunks},
                    lambda: _error(step, shape, *make()),  # noqa: B023
                )


def _error(
    step: tuple[KVPool, AttentionBatch, torch.Tensor],
    shape: Shape,
    work: Callable[[], None],
    out: torch.Tensor,
) -> dict[str, Any]:
    pool, batch, query = step
    out.fill_(torch.nan)
    work()
    expected, _ = paged_attention(
        query,
        pool.keys[0],
        pool.values[0],
        cu_seqlens_q=batch.cu_seqlens_q_cpu,
        seq_lens=batch.seq_lens_cpu,
        block_table=batch.block_table,
        scale=params_of(shape).scale,
    )
    largest = (out.float() - expected.float()).abs().max().item()
    return {"largest error": largest, "right": largest < TOLERANCE}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and variants")
    parser.add_argument("--out", type=Path, help="write all rows as JSON")
    args = parser.parse_args()
    properties = torch.cuda.get_device_properties(0)
    tuning = tuning_of(0)
    report, copy = Report(), copy_bandwidth()
    print(f"{properties.name}, torch {torch.__version__}, copy {copy / 1e9:.0f} GB/s")
    parts: list[tuple[str, Callable[[], None]]] = [
        ("check", lambda: check(report, tuning)),
        ("decode", lambda: bench_decodes(report, tuning, copy, args.quick)),
        ("prefill", lambda: bench_prefills(report, tuning, args.quick)),
        ("cudnn", lambda: cudnn_plan_time(report, tuning)),
        ("sweep", lambda: sweep_decodes(report, tuning, copy, args.quick)),
    ]
    for name, part in parts:
        started = time.monotonic()
        part()
        print(f"-- {name}: {time.monotonic() - started:.1f} s", flush=True)
        if args.out:
            rows = [{"copy": copy, "device": properties.name}, *report.rows]
            args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
