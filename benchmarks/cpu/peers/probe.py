"""What the machine can do at this moment: read memory, and multiply bf16 matrices."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from peers.protocol import Message, serve
from windlass_cpu.built import library_path
from windlass_cpu.linear import Bf16Weight

READ_BYTES = 2**30
MATRIX = 2048
SECONDS = 0.3
# Blocks of 8 KiB, summed in vector registers: nothing but memory takes the time.
PROGRAM = """
#include <stdint.h>
uint64_t read_all(const uint64_t *data, int64_t count) {
    uint64_t total = 0;
#pragma omp parallel for schedule(static) reduction(+ : total)
    for (int64_t block = 0; block < count / 1024; block++) {
        const uint64_t *words = data + block * 1024;
        uint64_t sum = 0;
        for (int i = 0; i < 1024; i++) sum += words[i];
        total += sum;
    }
    return total;
}
"""


def make_probe() -> dict[str, Callable[[Message], Message]]:
    """The commands `threads` and `probe`; the data is allocated once."""
    data = torch.ones(READ_BYTES // 8, dtype=torch.int64)
    products = _products()
    reads: list[Callable[[], object]] = [data.sum]
    compiled = _compiled_read(data)
    if compiled:
        reads.append(compiled)

    def threads(request: Message) -> Message:
        torch.set_num_threads(request["threads"])
        return {"compiled": compiled is not None}

    def probe(request: Message) -> Message:
        bandwidths = [READ_BYTES / _best(read) for read in reads]
        rates = [2 * MATRIX**3 / _best(product) for product in products]
        return {
            "bandwidth": max(bandwidths),
            "bandwidths": bandwidths,
            "flops": max(rates),
            "rates": rates,
        }

    return {"threads": threads, "probe": probe}


def _best(call: Callable[[], object]) -> float:
    """Shortest time of a call, over about `SECONDS` and three calls at least."""
    best, calls, end = float("inf"), 0, time.perf_counter() + SECONDS
    while calls < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
        calls += 1
    return best


def _products() -> list[Callable[[], object]]:
    """A large bf16 product by torch, and by Windlass' kernels where there are any."""
    left, right = (torch.randn(MATRIX, MATRIX).bfloat16() for _ in range(2))
    products: list[Callable[[], object]] = [lambda: F.linear(left, right)]
    if library_path() is not None:
        packed = Bf16Weight(right)
        products.append(lambda: packed.apply(left))
    return products


def _compiled_read(data: torch.Tensor) -> Callable[[], object] | None:
    """A plain loop in C, where there is a compiler; it runs on torch's OpenMP threads."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "read.c", Path(folder) / "read.so"
        source.write_text(PROGRAM)
        flags = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
        done = subprocess.run([compiler, *flags, source, "-o", library], check=False)
        if done.returncode:
            return None
        read = ctypes.CDLL(str(library)).read_all
    read.argtypes, read.restype = [ctypes.c_void_p, ctypes.c_int64], ctypes.c_uint64
    return lambda: read(data.data_ptr(), data.numel())


if __name__ == "__main__":
    serve(make_probe())
