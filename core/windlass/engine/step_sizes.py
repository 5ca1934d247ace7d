"""How many tokens the steps of an engine had, as counts per range."""

from __future__ import annotations

from bisect import bisect_left

BOUNDS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""The greatest number of tokens in each range; what is above the last has a range of its own."""


class StepSizes:
    """`counts[i]` steps had at most `BOUNDS[i]` tokens and more than the bound before it."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.tokens = 0

    def add(self, num_tokens: int) -> None:
        """Count a step."""
        self.counts[bisect_left(BOUNDS, num_tokens)] += 1
        self.tokens += num_tokens
