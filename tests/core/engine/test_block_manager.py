from __future__ import annotations

import pytest

from windlass.engine.block_manager import BlockError, BlockManager
from windlass.engine.prefix_hash import extend_hashes

BLOCK_SIZE = 2


def chain(*tokens: int, salt: str = "") -> list[bytes]:
    """Names of the full blocks of `tokens`."""
    hashes: list[bytes] = []
    extend_hashes(hashes, list(tokens), BLOCK_SIZE, len(tokens) // BLOCK_SIZE, salt)
    return hashes


def manager(num_blocks: int = 5) -> BlockManager:
    return BlockManager(num_blocks, BLOCK_SIZE, True)


def fill(blocks: BlockManager, hashes: list[bytes]) -> list[int]:
    """Allocate and cache one block per hash."""
    table = blocks.allocate(len(hashes))
    for block_id, block_hash in zip(table, hashes, strict=True):
        blocks.cache(block_id, block_hash)
    return table


def test_every_block_but_the_null_block_is_handed_out_once() -> None:
    blocks = manager(5)
    assert sorted(blocks.allocate(4)) == [1, 2, 3, 4]
    assert blocks.num_free == 0


def test_asking_for_more_than_is_free_takes_nothing() -> None:
    blocks = manager(5)
    with pytest.raises(BlockError, match="5 blocks were asked for and 4 are free"):
        blocks.allocate(5)
    assert blocks.num_free == 4


def test_freed_block_keeps_its_content_until_it_is_needed() -> None:
    blocks, hashes = manager(5), chain(1, 2, 3, 4)
    table = fill(blocks, hashes)
    blocks.free(table)
    assert blocks.num_free == 4
    assert blocks.find_prefix(hashes) == table
    blocks.allocate(4)
    assert blocks.find_prefix(hashes) == []


def test_prefix_ends_at_the_first_block_that_is_missing() -> None:
    blocks, hashes = manager(5), chain(1, 2, 3, 4, 5, 6)
    table = fill(blocks, hashes)
    blocks.uncache([hashes[1]])
    assert blocks.find_prefix(hashes) == table[:1]


def test_shared_block_is_free_when_the_last_holder_gives_it_back() -> None:
    blocks, hashes = manager(5), chain(1, 2)
    table = fill(blocks, hashes)
    blocks.share(table)
    blocks.free(table)
    assert (blocks.num_free, blocks.references(table[0])) == (3, 1)
    blocks.free(table)
    assert (blocks.num_free, blocks.references(table[0])) == (4, 0)


def test_tail_of_the_oldest_prefix_is_evicted_first() -> None:
    blocks = manager(5)
    old, new = chain(1, 2, 3, 4), chain(5, 6, 7, 8)
    old_table, new_table = fill(blocks, old), fill(blocks, new)
    blocks.free(old_table)
    blocks.free(new_table)
    assert blocks.allocate(1) == old_table[1:]
    assert blocks.find_prefix(old) == old_table[:1]
    assert blocks.allocate(1) == old_table[:1]
    assert blocks.allocate(2) == new_table[::-1]


def test_block_without_content_is_used_before_a_cached_one() -> None:
    blocks, hashes = manager(3), chain(1, 2)
    cached = fill(blocks, hashes)
    plain = blocks.allocate(1)
    blocks.free(cached)
    blocks.free(plain)
    assert blocks.allocate(1) == plain
    assert blocks.find_prefix(hashes) == cached


def test_sharing_a_free_block_makes_it_recently_used() -> None:
    blocks = manager(3)
    first, second = chain(1, 2), chain(3, 4)
    a, b = fill(blocks, first), fill(blocks, second)
    blocks.free(a)
    blocks.free(b)
    blocks.share(a)
    blocks.free(a)
    assert blocks.allocate(1) == b
    assert blocks.find_prefix(first) == a


def test_same_content_is_found_in_one_block_only() -> None:
    blocks, hashes = manager(5), chain(1, 2)
    first, second = fill(blocks, hashes), fill(blocks, hashes)
    assert blocks.find_prefix(hashes) == first
    blocks.free(second)
    assert blocks.num_cached == 1


def test_salts_do_not_share() -> None:
    blocks = manager(5)
    fill(blocks, chain(1, 2, salt="a"))
    assert blocks.find_prefix(chain(1, 2, salt="b")) == []


def test_count_free_counts_blocks_nobody_holds() -> None:
    blocks = manager(5)
    held, left = fill(blocks, chain(1, 2)), fill(blocks, chain(3, 4))
    blocks.free(left)
    assert blocks.count_free(held + left) == 1


def test_double_free_is_an_error() -> None:
    blocks = manager(5)
    table = blocks.allocate(1)
    blocks.free(table)
    with pytest.raises(BlockError, match="freed twice"):
        blocks.free(table)


def test_only_what_is_held_or_cached_can_be_shared_or_cached() -> None:
    blocks = manager(5)
    with pytest.raises(BlockError, match="nothing to share"):
        blocks.share([1])
    with pytest.raises(BlockError, match="is free"):
        blocks.cache(1, b"name")


def test_reset_forgets_content_and_leaves_references() -> None:
    blocks, held, left = manager(5), chain(1, 2), chain(3, 4)
    table = fill(blocks, held)
    blocks.free(fill(blocks, left))
    blocks.reset_prefix_cache()
    assert blocks.num_cached == 0
    assert blocks.find_prefix(held) == blocks.find_prefix(left) == []
    assert (blocks.num_free, blocks.references(table[0])) == (3, 1)
    blocks.free(table)
    assert sorted(blocks.allocate(4)) == [1, 2, 3, 4]
