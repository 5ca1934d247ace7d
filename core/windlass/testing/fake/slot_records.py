"""What every slot of a KV cache holds, noted when it is written and checked when it is read.

Attention is not told which request a token belongs to, nor which tokens came before it. It is told
block tables and lengths, and that is enough for a chain: when a token's key and value are first
read, at position p behind the slot of position p-1, the slot is noted with p and with a hash of its
bytes and of the note before it. From then on the slot may be read at p and behind that very prefix
only, by whichever request: so sharing a prefix is right, and anything else is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from windlass.errors import PluginError
from windlass.kernels.kv_quantization import indexable

_MASK = (1 << 64) - 1
_UNCLAIMED, _UNWRITTEN, _FREED = -1, -2, -3
_WEIGHTS = np.random.default_rng(0).integers(0, 1 << 63, 1 << 16, dtype=np.uint64) * 2 + 1

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


class KVCacheError(PluginError):
    """The KV cache was used against the rules."""


class KVReadError(KVCacheError):
    """Attention would read a slot that does not hold what belongs there."""


class KVWriteError(KVCacheError):
    """A slot was written that cannot be."""


@dataclass(frozen=True)
class Read:
    """What one layer of one step reads, on the host. `serial` tells steps apart.

    `table` `[R, M]`, `lens` `[R]` and `slots` `[T]` (-1: no token of this step is written there) as
    in `AttentionBatch`; request r has the tokens `starts[r]` to `starts[r + 1]` of the step. Keys
    before `window` are not read (0: all are).
    """

    serial: int
    table: Ints
    lens: list[int]
    starts: list[int]
    slots: Ints
    window: int

    def first(self, row: int) -> int:
        """The first position that the row reads."""
        queries = self.starts[row + 1] - self.starts[row]
        return max(0, self.lens[row] - queries + 1 - self.window) if self.window else 0


class SlotRecords:
    """Records of one pool; `parts[layer]` are host views `[B, N, ...]` of what a layer holds.

    `null_is_wrong` says that no sequence lives in the null block alone, as those of a warm-up do.
    """

    def __init__(self, parts: Sequence[Sequence[torch.Tensor]]) -> None:
        self.null_is_wrong = False
        self._parts = parts
        self.num_blocks, self.block_size = parts[0][0].shape[:2]
        shape = (len(parts), self.num_blocks * self.block_size)
        self._position: Ints = np.full(shape, _UNWRITTEN, dtype=np.int64)
        self._owner: Ints = np.zeros(shape, dtype=np.int64)
        self._content: Hashes = np.zeros(shape, dtype=np.uint64)
        self._chain: Hashes = np.zeros(shape, dtype=np.uint64)
        self._parent: Hashes = np.zeros(shape, dtype=np.uint64)

    @property
    def _all(self) -> tuple[npt.NDArray[np.generic], ...]:
        return (self._position, self._owner, self._content, self._chain, self._parent)

    # Writing

    def check_slots(self, slots: Ints) -> None:
        """Refuse slots that do not exist, and two tokens in one.

        Raises:
            KVWriteError: names the slot.
        """
        real = slots[slots >= self.block_size]
        last = self.num_blocks * self.block_size - 1
        if (slots > last).any():
            raise KVWriteError(f"slot {slots.max()} is written; the last one is {last}")
        found, counts = np.unique(real, return_counts=True)
        if (counts > 1).any():
            twice = found[counts > 1][0]
            raise KVWriteError(
                f"slot {twice} (block {twice // self.block_size}) is written twice in one step"
            )

    def written(self, layer: int, slots: Ints) -> None:
        """Note that the slots (-1: none) hold something new."""
        real = slots[slots >= 0]
        self._position[layer, real] = _UNCLAIMED
        self._content[layer, real] = self._fingerprints(layer, real)

    def imported(self, layer: int, blocks: Ints) -> None:
        """Note that the blocks of a layer hold something new."""
        self.written(layer, self._slots(blocks))

    def freed(self, blocks: Ints) -> None:
        """Forget the blocks, and fill them with NaN."""
        for part in (part for parts in self._parts for part in parts):
            # fp8 and bfloat16 have no numpy; every byte 255 is NaN in each float format.
            indexable(part)[torch.from_numpy(blocks)] = torch.full(
                (part.element_size(),), 255, dtype=torch.uint8
            ).view(indexable(part).dtype)
        self._position[:, self._slots(blocks)] = _FREED

    def zeroed(self, blocks: Ints) -> None:
        """The blocks hold zeros."""
        self._position[:, self._slots(blocks)] = _UNWRITTEN

    def moved(self, source: SlotRecords, pairs: Ints) -> None:
        """Blocks of `source` (perhaps this one) were copied here; `pairs` are (there, here)."""
        there, here = source._slots(pairs[:, 0]), self._slots(pairs[:, 1])
        for mine, other in zip(self._all, source._all, strict=True):
            mine[:, here] = other[:, there]

    def _slots(self, blocks: Ints) -> Ints:
        slots: Ints = (blocks[:, None] * self.block_size + np.arange(self.block_size)).ravel()
        return slots

    def _fingerprints(self, layer: int, slots: Ints) -> Hashes:
        """A hash of all bytes of each slot."""
        found: Hashes = np.zeros(len(slots), dtype=np.uint64)
        if not len(slots):
            return found
        blocks = torch.from_numpy(slots // self.block_size)
        offsets = torch.from_numpy(slots % self.block_size)
        for number, part in enumerate(self._parts[layer]):
            rows = indexable(part)[blocks, offsets].contiguous().view(torch.uint8)
            data = rows.reshape(len(slots), -1).numpy().astype(np.uint64)
            found = found * np.uint64(0x9E3779B97F4A7C15) + data @ _WEIGHTS[: data.shape[1]]
            found ^= found >> np.uint64(29 + number)
        return found

    # Reading

    def check(self, layer: int, read: Read) -> None:
        """Check all that a layer of a step reads, and note what is read for the first time.

        Raises:
            KVReadError: names the row of the batch, the position, the block and the slot.
        """
        # A step may find a prefix that another row of it writes: that row begins earlier.
        begins = [
            read.lens[row] - read.starts[row + 1] + read.starts[row]
            for row in range(len(read.lens))
        ]
        for row in sorted(range(len(begins)), key=begins.__getitem__):
            blocks = read.table[row, : -(-read.lens[row] // self.block_size)]
            written = read.slots[read.starts[row] : read.starts[row + 1]]
            # The null block alone is padding's, and a warm-up's.
            if blocks.any() or (self.null_is_wrong and (written >= 0).any()):
                self._check_row(layer, read, row, begins[row])

    def _check_row(self, layer: int, read: Read, row: int, begin: int) -> None:
        first, end = read.first(row), read.lens[row]
        position = np.arange(first, end)
        columns = position // self.block_size
        if columns[-1] >= read.table.shape[1]:
            raise KVReadError(
                f"row {row}: {end} tokens do not fit into {read.table.shape[1]} blocks"
            )
        slots = read.table[row, columns] * self.block_size + position % self.block_size
        new = read.slots[read.starts[row] : read.starts[row + 1]]
        strict = bool((new >= 0).all())
        changed = self._fingerprints(layer, slots) != self._content[layer, slots]
        parent = self._before(layer, read, row, first)
        for i, slot in enumerate(slots.tolist()):
            at = first + i
            wrong = "is in the null block" if slot < self.block_size else ""
            if strict and not wrong and at >= begin:
                wrong = self._not_of_this_step(layer, read, slot, int(new[at - begin]))
            # What lies before a window need not be there any more.
            wrong = wrong or self._not_at(layer, slot, at, parent if i or not first else None)
            claimed = self._position[layer, slot] != _UNCLAIMED
            if not wrong and claimed and changed[i]:
                wrong = "holds other bytes than were written"
            if wrong:
                raise KVReadError(
                    f"layer {layer}, row {row}, position {at}: slot {slot} "
                    f"(block {slot // self.block_size}) {wrong}"
                )
            if not claimed:
                self._claim(layer, slot, at, parent, read.serial)
            parent = int(self._chain[layer, slot])

    def _not_of_this_step(self, layer: int, read: Read, slot: int, written: int) -> str:
        """Why a new token's slot is not what the step itself says: it writes slot `written`."""
        claimed = self._position[layer, slot] != _UNCLAIMED
        if written != slot:
            return f"is read, and this step writes slot {written} instead"
        if claimed and self._owner[layer, slot] != read.serial:
            return "was not written by this step"
        return ""

    def _not_at(self, layer: int, slot: int, position: int, parent: int | None) -> str:
        """Why a slot does not hold this position behind `parent` (None: any)."""
        state = int(self._position[layer, slot])
        if state == _UNCLAIMED:
            return ""
        if state < 0:
            return "was freed" if state == _FREED else "was never written"
        if state != position:
            return f"holds position {state}"
        other = parent is not None and int(self._parent[layer, slot]) != parent
        return "belongs to another prefix" if other else ""

    def _before(self, layer: int, read: Read, row: int, position: int) -> int:
        """The chain that a position continues."""
        if not position:
            return 0
        block = read.table[row, (position - 1) // self.block_size]
        return int(self._chain[layer, block * self.block_size + (position - 1) % self.block_size])

    def _claim(self, layer: int, slot: int, position: int, parent: int, serial: int) -> None:
        state = (parent ^ int(self._content[layer, slot])) * 0x9E3779B97F4A7C15
        state = (state + 0x632BE59BD9B4E019 + position) & _MASK
        self._position[layer, slot] = position
        self._owner[layer, slot] = serial
        self._parent[layer, slot] = parent
        self._chain[layer, slot] = state ^ (state >> 29)
