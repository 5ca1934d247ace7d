"""Tiles to try for a linear layer over few rows, compiled side by side."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

import torch

from windlass.backend.triton.linear_tiles import Tiles
from windlass.kernels.triton.fused_linear import LinearConfig, Norm, fused_linear
from windlass.kernels.triton.skinny_linear import skinny_linear, split_counters
from windlass_cuda.overlap import overlap

EPS = 1e-6


@dataclass(frozen=True)
class Task:
    """One kernel to compile: it does not depend on the number of outputs."""

    inputs: int
    tiles: Tiles
    normed: bool = False
    gated: bool = False


def vector_tiles(rows: int, inputs: int, *, gated: bool, quick: bool) -> list[Tiles]:
    """Tiles without matrix instructions, by numbers of the weight that a thread holds."""
    width = 1 << (inputs - 1).bit_length()
    sizes = [size for size in (1024, 2048, 4096) if size <= width]
    sizes = sizes[-1:] if quick or rows > 2 else sizes[-2:] if width <= 4096 else sizes
    found = []
    for num_warps, numbers in ((4, 32), (4, 64), (4, 128), (8, 64), (8, 128)):
        if numbers == 128 and rows > 1:
            continue
        for block_k in sizes:
            block_n = 32 * num_warps * numbers // block_k // (2 if gated else 1)
            for stages in (1, 3) if block_k == 1024 < inputs else (1,):
                if 1 <= block_n <= 32:
                    found.append(Tiles(rows, block_n, block_k, 1, num_warps, stages))
    return found


def dot_tiles(
    rows: int, outputs: int, inputs: int, multiprocessors: int, *, quick: bool
) -> list[Tiles]:
    """Tiles for matrix instructions, with one to four programs a multiprocessor."""
    block_m = max(16, rows)
    found = []
    for block_n, block_k, num_warps, stages in (
        (16, 256, 4, 4),
        (64, 128, 4, 4),
        (32, 128, 4, 5),
        (64, 64, 4, 6),
        (128, 64, 4, 5),
    )[:: 2 if quick else 1]:
        programs, steps = outputs // block_n, -(-inputs // block_k)
        splits = [s for s in (1, 2, 4, 8) if s <= steps // 2 and programs * s >= multiprocessors]
        for split in splits[:2] or [min(8, max(1, steps // 2))]:
            found.append(Tiles(block_m, block_n, block_k, split, num_warps, stages))
    return found


def compile_all(items: Sequence[tuple[Task, str, str]], workers: int) -> None:
    """Fill Triton's cache on disk; what fails here fails again, with its message, when measured."""
    print(f"{len(items)} kernels to compile", flush=True)
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            failed = sum(not ok for ok in pool.map(compile_one, items, chunksize=4))
        print(f"{failed} failed", flush=True)
    except BrokenProcessPool as error:
        print(f"a process ended: {error}; the rest is compiled when measured", flush=True)


def compile_one(item: tuple[Task, str, str]) -> bool:
    """Run a kernel once, on a small weight."""
    task, arch, eviction = item
    rows, outputs = min(task.tiles.block_m, 8), 1024
    config = config_of(task.tiles, arch, eviction)
    try:
        x = torch.zeros(rows, task.inputs, dtype=torch.bfloat16, device="cuda")
        weight = torch.zeros(outputs, task.inputs, dtype=torch.bfloat16, device="cuda")
        if task.normed:
            norm = Norm(x[0], EPS)
            fused_linear(x, weight, None, config, norm=norm, residual=x, gated=task.gated)
        else:
            skinny_linear(x, weight, None, config, counters=split_counters(outputs, x.device))
        torch.cuda.synchronize()
    except Exception as error:  # noqa: BLE001 - one tile that does not work stops no other
        print(f"{task}: {type(error).__name__}: {str(error)[:200]}", flush=True)
        return False
    return True


def config_of(tiles: Tiles, arch: str, eviction: str) -> LinearConfig:
    """The tiles with overlap."""
    return LinearConfig(**tiles._asdict(), eviction=eviction, **overlap(arch))
