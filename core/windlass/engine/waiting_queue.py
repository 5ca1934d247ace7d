"""Sequences that wait for a row and blocks, in the order in which they will be admitted."""

from __future__ import annotations

import heapq
from collections.abc import Set as AbstractSet

from windlass.engine.sequence import Sequence

_COMPACT_ABOVE = 64


class WaitingQueue:
    """A priority queue by `Sequence.order` from which any sequence can be removed.

    Adding and removing are O(log n) amortised: a removed entry stays in the heap until it comes
    to the top or such entries are the majority.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int]] = []
        self._sequences: dict[tuple[int, int], Sequence] = {}
        self.num_tokens = 0

    def __len__(self) -> int:
        return len(self._sequences)

    def add(self, seq: Sequence) -> None:
        """Queue a sequence at the place of its order."""
        self._sequences[seq.order] = seq
        self.num_tokens += seq.prompt_len
        heapq.heappush(self._heap, seq.order)

    def remove(self, seq: Sequence) -> None:
        """Take a queued sequence out, wherever it stands."""
        del self._sequences[seq.order]
        self.num_tokens -= seq.prompt_len
        if len(self._heap) > _COMPACT_ABOVE + 2 * len(self._sequences):
            self._heap = sorted(self._sequences)

    def first(self, count: int) -> list[Sequence]:
        """Return the `count` sequences that are next, in order."""
        orders = heapq.nsmallest(count, self._sequences)
        return [self._sequences[order] for order in orders]

    def head(self, only: AbstractSet[str] | None = None) -> Sequence | None:
        """Return who is next, among the request ids in `only` when given (O(n) then)."""
        if only is not None:
            allowed = (seq for seq in self._sequences.values() if seq.request_id in only)
            return min(allowed, key=lambda seq: seq.order, default=None)
        while self._heap and self._heap[0] not in self._sequences:
            heapq.heappop(self._heap)
        return self._sequences[self._heap[0]] if self._heap else None
