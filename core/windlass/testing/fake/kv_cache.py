"""Attention and allocator of the fake accelerator: torch's, with a record of every slot."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.utils.weak import WeakTensorKeyDictionary

from windlass.backend import (
    AttentionBatch,
    AttentionParams,
    Capabilities,
    Event,
    KVPool,
    Stream,
    TorchAllocator,
    TorchAttention,
)
from windlass.engine.block_manager import BlockManager
from windlass.testing.fake.device import FakeDevice
from windlass.testing.fake.machine import Machine
from windlass.testing.fake.slot_records import Ints, Read, SlotRecords
from windlass.testing.fake.tensor import POISON, FakeTensor


class PoolRecords:
    """The records of every pool of a machine, found by the pool's buffer."""

    def __init__(self, owner: Machine) -> None:
        self.machine = owner
        self._found = WeakTensorKeyDictionary()

    def of(self, pool: KVPool) -> SlotRecords:
        """The pool's records, made when it is first seen."""
        if pool.buffer not in self._found:
            parts = [_place(part) for part in pool.parts]
            layers = [parts[layer :: pool.num_layers] for layer in range(pool.num_layers)]
            self._found[pool.buffer] = SlotRecords(layers)
        records: SlotRecords = self._found[pool.buffer]
        return records

    def free(self, pool: KVPool, block_ids: Sequence[int]) -> None:
        """Fill blocks with NaN behind all that is queued; whoever reads them is told."""
        blocks = np.asarray(block_ids, dtype=np.int64)
        records = self.of(pool)
        self.machine.enqueue("freeing blocks", lambda: records.freed(blocks))

    def watch(self, pool: KVPool, blocks: BlockManager) -> None:
        """Free blocks as they are handed out anew: what they held is over, so nobody may read it.

        Steps that are queued already may, as they may on a device. From now on no sequence may live
        in the null block.
        """
        self.of(pool).null_is_wrong = True
        allocate = blocks.allocate

        def and_forget(count: int) -> list[int]:
            taken = allocate(count)
            self.free(pool, taken)
            return taken

        blocks.allocate = and_forget  # type: ignore[method-assign]


def _place(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.place if isinstance(tensor, FakeTensor) else tensor


def _ints(tensor: torch.Tensor) -> Ints:
    numbers: Ints = tensor.numpy().astype(np.int64)
    return numbers


@dataclass(frozen=True)
class _Plan:
    """torch's plan, and the batch for the checks."""

    inner: object
    batch: AttentionBatch
    serial: int


class FakeAttention(TorchAttention):
    """torch's attention, which writes down what it writes and checks what it reads.

    The checks run on the device: in their turn in the stream, and in a graph at every replay.
    """

    def __init__(self, records: PoolRecords) -> None:
        self.records = records
        self._machine = records.machine
        self._serials = itertools.count(1)

    def plan(self, batch: AttentionBatch, pool: KVPool, *, capture: bool = False) -> object:
        """Count a step, and plan as torch's."""
        if not capture:
            self._machine.begin_step()
        inner = super().plan(batch, pool, capture=capture)
        return _Plan(inner, batch, next(self._serials))

    def write_kv(
        self,
        pool: KVPool,
        layer: int,
        key: torch.Tensor,
        value: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Write, and note what was written."""
        records, slots = self.records.of(pool), _place(slot_mapping)
        self._machine.enqueue("checking slots", lambda: records.check_slots(_ints(slots)))
        super().write_kv(pool, layer, key, value, slot_mapping)
        self._machine.enqueue("noting slots", lambda: records.written(layer, _ints(slots)))

    def run(
        self,
        pool: KVPool,
        layer: int,
        query: torch.Tensor,
        plan: object,
        params: AttentionParams,
        out: torch.Tensor,
        lse: torch.Tensor | None = None,
    ) -> None:
        """Check every slot that will be read, then read."""
        assert isinstance(plan, _Plan)
        batch, records = plan.batch, self.records.of(pool)
        table, slots = _place(batch.block_table), _place(batch.slot_mapping)
        lens, starts = _place(batch.seq_lens), _place(batch.cu_seqlens_q)

        def check() -> None:
            read = Read(
                serial=plan.serial,
                table=_ints(table),
                lens=lens.tolist(),
                starts=starts.tolist(),
                slots=_ints(slots),
                window=params.window,
            )
            records.check(layer, read)

        self._machine.enqueue("checking keys and values", check)
        super().run(pool, layer, query, plan.inner, params, out, lse)

    def import_blocks(
        self, pool: KVPool, layer: int, block_ids: torch.Tensor, blocks: torch.Tensor
    ) -> None:
        """Store, and note that the slots hold something new."""
        super().import_blocks(pool, layer, block_ids, blocks)
        records, ids = self.records.of(pool), _place(block_ids)
        self._machine.enqueue("noting blocks", lambda: records.imported(layer, _ints(ids)))


class FakeAllocator(TorchAllocator):
    """torch's allocator; records go with the blocks, and what is released is full of NaN."""

    def __init__(
        self, device: FakeDevice, capabilities: Capabilities, records: PoolRecords
    ) -> None:
        super().__init__(device, capabilities)
        self._records = records
        self._machine = device.machine

    def release(self, tag: str) -> None:
        """Poison the buffer behind all that is queued."""
        buffer = self._reserved.get(tag)
        if buffer is not None:
            with torch.inference_mode(mode=buffer.is_inference()):
                buffer.fill_(POISON)
        super().release(tag)

    def host(self, nbytes: int, *, pinned: bool = False) -> torch.Tensor:
        """A host buffer; page-locked memory is read and written by the device when it likes."""
        buffer = torch.zeros(nbytes, dtype=torch.uint8)
        if pinned:
            self._machine.lock_pages(buffer)
        return buffer

    def copy_blocks(self, pools: Sequence[KVPool], pairs: torch.Tensor) -> None:
        """Copy blocks with their records."""
        super().copy_blocks(pools, pairs)
        numbers = _ints(pairs.cpu())
        for records in map(self._records.of, pools):
            self._machine.enqueue("moving records", partial(records.moved, records, numbers))

    def zero_blocks(self, pools: Sequence[KVPool], block_ids: torch.Tensor) -> None:
        """Zero blocks and forget them."""
        super().zero_blocks(pools, block_ids)
        blocks = _ints(block_ids.cpu())
        for records in map(self._records.of, pools):
            self._machine.enqueue("forgetting records", partial(records.zeroed, blocks))

    def swap(
        self, source: KVPool, destination: KVPool, pairs: torch.Tensor, stream: Stream
    ) -> Event:
        """Copy blocks with their records, on `stream`."""
        there, here = self._records.of(source), self._records.of(destination)
        numbers = _ints(pairs.cpu())
        super().swap(source, destination, pairs, stream)
        with self.device.use(stream):
            self._machine.enqueue("moving records", lambda: here.moved(there, numbers))
            event = self.device.event()
            event.record(stream)
        return event
