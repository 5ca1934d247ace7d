"""Drives an asynchronous engine with requests that come one by one, and times their tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from gpu_peers.protocol import Served
from gpu_peers.workloads import Arrivals

# Makes the stream of a request: number, prompt, output tokens -> tokens so far, at each news.
Stream = Callable[[int, list[int], int], AsyncIterator[int]]


async def drive(arrivals: Arrivals, stream: Stream) -> Served:
    """Submit every request at its time and follow it to its end."""
    number = len(arrivals.at)
    first, end, counts = [0.0] * number, [0.0] * number, [0] * number
    gaps: list[float] = []
    start = time.perf_counter()

    async def follow(i: int) -> None:
        await asyncio.sleep(max(0.0, start + arrivals.at[i] - time.perf_counter()))
        begun = time.perf_counter()
        async for count in stream(i, arrivals.prompts[i], arrivals.output_lens[i]):
            now = time.perf_counter() - begun
            if counts[i]:
                gaps.append(now - end[i])
            else:
                first[i] = now
            end[i], counts[i] = now, count

    await asyncio.gather(*map(follow, range(number)))
    return Served(first, end, counts, gaps, time.perf_counter() - start)
