"""The block tables of sequences: a prefix from the cache, growth, and what others may find."""

from __future__ import annotations

from itertools import islice

from windlass.engine.block_manager import BlockManager
from windlass.engine.prefix_hash import extend_hashes
from windlass.engine.sequence import Sequence


class BlockTables:
    """Moves blocks between the block manager and sequences."""

    def __init__(self, blocks: BlockManager) -> None:
        self._blocks = blocks

    def start(self, seq: Sequence, room: int) -> bool:
        """Give a waiting sequence blocks for all its known tokens, cached ones where it can.

        False, and nothing has changed, when fewer than `room` blocks would stay free.
        A prefill that has started never lacks blocks, so prefills cannot block each other.
        """
        blocks, num_tokens = self._blocks, len(seq.token_ids)
        shared = self._find_prefix(seq)
        num_new = -(-num_tokens // blocks.block_size) - len(shared)
        if num_new + blocks.count_free(shared) + room > blocks.num_free:
            return False
        blocks.share(shared)
        seq.block_ids = shared + blocks.allocate(num_new)
        seq.num_hashed_blocks = len(shared)
        seq.num_shared_tokens = len(shared) * blocks.block_size
        seq.num_computed_tokens = seq.num_shared_tokens
        seq.num_prefill_tokens = num_tokens
        return True

    def append(self, seq: Sequence) -> int:
        """Add one free block to a table and return its id."""
        (block_id,) = self._blocks.allocate(1)
        seq.block_ids.append(block_id)
        return block_id

    def publish(self, seq: Sequence) -> None:
        """Offer blocks whose tokens are known and computed, in flight included, to the cache.

        A step writes the KV of all its tokens before it reads any, so whoever is admitted next,
        even to the same step, may share these blocks.
        """
        blocks = self._blocks
        num_full = min(len(seq.token_ids), seq.num_computed_tokens) // blocks.block_size
        if not blocks.enable_prefix_caching or num_full <= seq.num_hashed_blocks:
            return
        self._extend_hashes(seq, num_full)
        for index in range(seq.num_hashed_blocks, num_full):
            blocks.cache(seq.block_ids[index], seq.block_hashes[index])
        seq.num_hashed_blocks = num_full

    def release(self, seq: Sequence) -> None:
        """Give a table back; what is full stays in the cache until it is needed."""
        self.publish(seq)
        self._blocks.free(seq.block_ids)
        seq.block_ids = []

    def disown(self, seq: Sequence) -> None:
        """Let nobody find any block of the sequence's content: it cannot be relied upon."""
        self._blocks.uncache(seq.block_hashes)
        seq.num_hashed_blocks = len(seq.token_ids)

    def _find_prefix(self, seq: Sequence) -> list[int]:
        """Cached blocks of the sequence's prefix; at least its last token stays to compute."""
        if not (self._blocks.enable_prefix_caching and seq.reads_cache):
            return []
        num_blocks = (len(seq.token_ids) - 1) // self._blocks.block_size
        self._extend_hashes(seq, num_blocks)
        return self._blocks.find_prefix(islice(seq.block_hashes, num_blocks))

    def _extend_hashes(self, seq: Sequence, num_blocks: int) -> None:
        salt = seq.request.cache_salt
        extend_hashes(seq.block_hashes, seq.token_ids, self._blocks.block_size, num_blocks, salt)
