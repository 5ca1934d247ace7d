"""What the device can do at this moment: copy memory, and multiply bf16 matrices."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from gpu_peers.floors import Ceilings

_GPU_COPY_BYTES, _CPU_COPY_BYTES = 1 << 32, 1 << 26
_GPU_MATRIX, _CPU_MATRIX = 8192, 512


def synchronize(device: torch.device) -> None:
    """Wait for everything that was queued on the device."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def measure_ceilings(device: torch.device, seconds: float = 0.3) -> Ceilings:
    """Copy a large buffer and multiply large matrices of normal numbers, each for so long."""
    found = Ceilings(_bandwidth(device, seconds), _flops(device, seconds))
    if device.type != "cpu":
        torch.accelerator.empty_cache()
    return found


def _bandwidth(device: torch.device, seconds: float) -> float:
    size = _CPU_COPY_BYTES if device.type == "cpu" else _GPU_COPY_BYTES
    source = torch.full((size,), 7, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _best(lambda: target.copy_(source), device, seconds)


def _flops(device: torch.device, seconds: float) -> float:
    edge = _CPU_MATRIX if device.type == "cpu" else _GPU_MATRIX
    left, right = (torch.randn(edge, edge, device=device).bfloat16() for _ in range(2))
    product = torch.empty_like(left)
    return 2 * edge**3 / _best(lambda: torch.mm(left, right, out=product), device, seconds)


def _best(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Shortest time of a call among ten groups of three, or what fits into `seconds`."""
    call()
    synchronize(device)
    best, end = float("inf"), time.perf_counter() + seconds
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(3):
            call()
        synchronize(device)
        best = min(best, (time.perf_counter() - start) / 3)
        if time.perf_counter() > end:
            break
    return best
