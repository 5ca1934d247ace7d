"""Which sequences there are, where each stands, and the rows of those that run."""

from __future__ import annotations

from bisect import bisect_left, insort
from operator import attrgetter

from windlass.engine.block_tables import BlockTables
from windlass.engine.sequence import Sequence, SequenceStatus
from windlass.engine.waiting_queue import WaitingQueue

_order = attrgetter("order")


class SequenceTable:
    """Every unfinished sequence: waiting in a queue, or running in a row with blocks.

    `running` is sorted by `Sequence.order`. A row keeps its sequence until that ends or is
    preempted; the runner learns of it by `take_freed_rows`.
    """

    def __init__(self, num_rows: int, block_tables: BlockTables) -> None:
        self.by_id: dict[str, Sequence] = {}
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []
        self._block_tables = block_tables
        self._free_rows = list(range(num_rows - 1, -1, -1))
        self._freed_rows: list[int] = []

    def add(self, seq: Sequence) -> None:
        """Queue a new sequence."""
        self.by_id[seq.request_id] = seq
        self.waiting.add(seq)

    def start(self, seq: Sequence) -> None:
        """Give a waiting sequence that has its blocks a free row."""
        self.waiting.remove(seq)
        insort(self.running, seq, key=_order)
        seq.status = SequenceStatus.RUNNING
        seq.row = self._free_rows.pop()

    def preempt(self, seq: Sequence) -> None:
        """Take row and blocks from a running sequence; it waits again and is recomputed.

        A token of it that is in flight is valid and stays. A prefill that was cut short has none
        and starts again, so what its chunks still bring is dropped.
        """
        if seq.is_prefilling:
            seq.discard_in_flight()
        self._stop(seq)
        seq.status = SequenceStatus.WAITING
        self.waiting.add(seq)

    def end(self, seq: Sequence) -> None:
        """Forget a sequence, wherever it stands."""
        if seq.status is SequenceStatus.WAITING:
            self.waiting.remove(seq)
        else:
            self._stop(seq)
        seq.status = SequenceStatus.FINISHED
        del self.by_id[seq.request_id]

    def take_freed_rows(self) -> list[int]:
        """Return the rows that came free since the last call; they may be in use again."""
        freed, self._freed_rows = self._freed_rows, []
        return freed

    def _stop(self, seq: Sequence) -> None:
        del self.running[bisect_left(self.running, seq.order, key=_order)]
        self._block_tables.release(seq)
        self._free_rows.append(seq.row)
        self._freed_rows.append(seq.row)
