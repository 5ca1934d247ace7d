"""Which KV blocks are in use, how often, and what the unused ones still hold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from windlass.errors import EngineError

NULL_BLOCK = 0
"""Never handed out: unused entries of a block table point to it."""


class BlockError(EngineError):
    """A block was taken, shared or given back against the rules."""


class BlockManager:
    """Hands out the ids 1 .. num_blocks-1 with reference counts and keeps the prefix cache.

    A block is free when its count is 0. A free block whose content has a hash stays in the
    cache until it is needed: blocks without a hash are used first, then the least recently freed.
    Every operation is O(1) per block.

    Raises:
        BlockError: more blocks are taken than are free, or a free block is given back.
    """

    def __init__(self, num_blocks: int, block_size: int, enable_prefix_caching: bool) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self._references = [0] * num_blocks
        self._hash_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._empty = list(range(num_blocks - 1, NULL_BLOCK, -1))
        self._evictable: OrderedDict[int, bytes] = OrderedDict()

    @property
    def capacity(self) -> int:
        """Blocks that can be in use at once."""
        return self.num_blocks - 1

    @property
    def num_free(self) -> int:
        """Blocks that `allocate` could hand out, cached ones included."""
        return len(self._empty) + len(self._evictable)

    @property
    def num_cached(self) -> int:
        """Blocks, free or in use, that a prefix can be found in."""
        return len(self._block_of)

    def references(self, block_id: int) -> int:
        """How many block tables hold the block."""
        return self._references[block_id]

    def snapshot(self, limit: int) -> list[int]:
        """Tell about the first `limit` blocks, from id 1 on: how many block tables hold each.

        0 is a block that is free and empty, -1 one that is free and still in the prefix cache.
        """
        held = self._references[NULL_BLOCK + 1 : NULL_BLOCK + 1 + limit]
        evictable = self._evictable
        return [count or -(block in evictable) for block, count in enumerate(held, NULL_BLOCK + 1)]

    def allocate(self, count: int) -> list[int]:
        """Take `count` free blocks; what they held is forgotten."""
        if count > self.num_free:
            raise BlockError(f"{count} blocks were asked for and {self.num_free} are free")
        return [self._take() for _ in range(count)]

    def _take(self) -> int:
        if self._empty:
            block_id = self._empty.pop()
        else:
            block_id, block_hash = self._evictable.popitem(last=False)
            self._hash_of[block_id] = None
            del self._block_of[block_hash]
        self._references[block_id] = 1
        return block_id

    def find_prefix(self, hashes: Iterable[bytes]) -> list[int]:
        """Return the blocks of the longest cached prefix of `hashes`, without taking them."""
        found: list[int] = []
        for block_hash in hashes:
            block_id = self._block_of.get(block_hash)
            if block_id is None:
                break
            found.append(block_id)
        return found

    def count_free(self, block_ids: Iterable[int]) -> int:
        """How many of `block_ids` nobody holds: sharing those uses up free blocks."""
        references = self._references
        return sum(not references[block_id] for block_id in block_ids)

    def share(self, block_ids: Iterable[int]) -> None:
        """Take another reference to cached blocks."""
        for block_id in block_ids:
            if not self._references[block_id]:
                if block_id not in self._evictable:
                    raise BlockError(f"block {block_id} is free and holds nothing to share")
                del self._evictable[block_id]
            self._references[block_id] += 1

    def free(self, block_ids: Sequence[int]) -> None:
        """Give back one reference to each block of a table, the last block first.

        So the head of a prefix, which most requests share, is evicted last.
        """
        references = self._references
        for block_id in reversed(block_ids):
            left = references[block_id] - 1
            if left < 0:
                raise BlockError(f"block {block_id} was freed twice")
            references[block_id] = left
            if left == 0:
                block_hash = self._hash_of[block_id]
                if block_hash is None:
                    self._empty.append(block_id)
                else:
                    self._evictable[block_id] = block_hash

    def cache(self, block_id: int, block_hash: bytes) -> None:
        """Let others find a block that is full, or will be before they read it.

        Nothing changes when another block already holds the same content.
        """
        if not self._references[block_id]:
            raise BlockError(f"block {block_id} is free: its content cannot be relied upon")
        if self._hash_of[block_id] is None and block_hash not in self._block_of:
            self._hash_of[block_id] = block_hash
            self._block_of[block_hash] = block_id

    def uncache(self, hashes: Iterable[bytes]) -> None:
        """Let nobody find these contents any more; those who hold the blocks keep them."""
        for block_hash in hashes:
            block_id = self._block_of.pop(block_hash, None)
            if block_id is not None:
                self._hash_of[block_id] = None
                if block_id in self._evictable:
                    del self._evictable[block_id]
                    self._empty.append(block_id)

    def reset_prefix_cache(self) -> None:
        """Forget the content of every block."""
        self.uncache(list(self._block_of))
