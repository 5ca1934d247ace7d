from __future__ import annotations

import pytest

from windlass.engine.prefix_hash import extend_hashes, hash_block, root_hash


def test_hash_depends_on_parent_tokens_order_and_salt() -> None:
    root, other = root_hash(""), root_hash("tenant")
    parent = hash_block(root, [9, 9])
    names = [
        hash_block(root, [1, 2]),
        hash_block(root, [2, 1]),
        hash_block(root, [1, 3]),
        hash_block(parent, [1, 2]),
        hash_block(other, [1, 2]),
    ]
    assert len(set(names)) == len(names)
    assert all(len(name) == 32 for name in names)
    assert hash_block(root, [1, 2]) == names[0]


def test_tokens_are_not_confused_across_their_bytes() -> None:
    root = root_hash("")
    assert hash_block(root, [1, 0]) != hash_block(root, [256, 0])
    assert hash_block(root, [2**32 - 1]) != hash_block(root, [0])
    with pytest.raises(OverflowError):
        hash_block(root, [-1])


def test_extending_in_pieces_gives_the_chain_made_at_once() -> None:
    tokens = list(range(14))
    at_once: list[bytes] = []
    extend_hashes(at_once, tokens, 4, 3, "salt")
    in_pieces: list[bytes] = []
    for num_blocks in (1, 1, 0, 3):
        extend_hashes(in_pieces, tokens, 4, num_blocks, "salt")
    assert in_pieces == at_once
    assert at_once[1] == hash_block(at_once[0], [4, 5, 6, 7])
    assert at_once[0] == hash_block(root_hash("salt"), [0, 1, 2, 3])
