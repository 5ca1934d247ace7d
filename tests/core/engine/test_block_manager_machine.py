"""Random histories of the block manager against a model made of plain lists and dicts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from windlass.engine.block_manager import BlockError, BlockManager
from windlass.engine.prefix_hash import extend_hashes

NUM_BLOCKS = 7
BLOCK_SIZE = 2


@dataclass
class Table:
    """A sequence's tokens, salt and block table; `num_hashed` blocks were offered."""

    salt: str
    tokens: list[int]
    block_ids: list[int]
    num_hashed: int = 0
    hashes: list[bytes] = field(default_factory=list)


class BlockManagerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = BlockManager(NUM_BLOCKS, BLOCK_SIZE, True)
        self.tables: list[Table] = []
        self.content: dict[int, tuple[str, tuple[int, ...]]] = {}
        self.lru: list[int] = []

    def take(self, count: int) -> list[int]:
        """Allocate, and let the model forget what was evicted: the least recently freed."""
        plain = self.blocks.num_free - len(self.lru)
        evicted, self.lru = self.lru[: max(0, count - plain)], self.lru[max(0, count - plain) :]
        taken = self.blocks.allocate(count)
        assert sorted(set(taken) & set(self.content)) == sorted(evicted)
        for block_id in evicted:
            del self.content[block_id]
        return taken

    def offer(self, table: Table) -> None:
        """Cache every full block that was not offered yet."""
        num_full = len(table.tokens) // BLOCK_SIZE
        extend_hashes(table.hashes, table.tokens, BLOCK_SIZE, num_full, table.salt)
        for index in range(table.num_hashed, num_full):
            block_id = table.block_ids[index]
            content = (table.salt, tuple(table.tokens[: (index + 1) * BLOCK_SIZE]))
            self.blocks.cache(block_id, table.hashes[index])
            if block_id not in self.content and content not in self.content.values():
                self.content[block_id] = content
        table.num_hashed = num_full

    @rule(
        salt=st.sampled_from(["", "a"]),
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=8),
    )
    def start(self, salt: str, tokens: list[int]) -> None:
        table = Table(salt, list(tokens), [])
        num_blocks = (len(tokens) - 1) // BLOCK_SIZE
        extend_hashes(table.hashes, tokens, BLOCK_SIZE, num_blocks, salt)
        shared = self.blocks.find_prefix(table.hashes)
        by_content = {content: block_id for block_id, content in self.content.items()}
        expected: list[int] = []
        for end in range(BLOCK_SIZE, num_blocks * BLOCK_SIZE + 1, BLOCK_SIZE):
            if (salt, tuple(tokens[:end])) not in by_content:
                break
            expected.append(by_content[(salt, tuple(tokens[:end]))])
        assert shared == expected
        num_new = -(-len(tokens) // BLOCK_SIZE) - len(shared)
        free_after = self.blocks.num_free - self.blocks.count_free(shared) - num_new
        if free_after < 0:
            return
        self.blocks.share(shared)
        self.lru = [block_id for block_id in self.lru if block_id not in shared]
        table.block_ids = shared + self.take(num_new)
        table.num_hashed = len(shared)
        self.tables.append(table)
        self.offer(table)

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), token=st.integers(0, 1))
    def append(self, data: st.DataObject, token: int) -> None:
        table = data.draw(st.sampled_from(self.tables))
        if len(table.tokens) == len(table.block_ids) * BLOCK_SIZE:
            if not self.blocks.num_free:
                with pytest.raises(BlockError):
                    self.blocks.allocate(1)
                return
            table.block_ids += self.take(1)
        table.tokens.append(token)
        self.offer(table)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.tables) - 1))
        table = self.tables.pop(index)
        self.blocks.free(table.block_ids)
        held = self.held()
        self.lru += [b for b in reversed(table.block_ids) if not held[b] and b in self.content]

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def disown(self, data: st.DataObject) -> None:
        table = data.draw(st.sampled_from(self.tables))
        self.blocks.uncache(table.hashes)
        gone = {(table.salt, tuple(table.tokens[:end])) for end in range(len(table.tokens) + 1)}
        self.content = {b: content for b, content in self.content.items() if content not in gone}
        self.lru = [b for b in self.lru if b in self.content]

    @rule(data=st.data())
    def free_twice(self, data: st.DataObject) -> None:
        held = self.held()
        idle = [b for b in range(1, NUM_BLOCKS) if not held[b]]
        if idle:
            with pytest.raises(BlockError):
                self.blocks.free([data.draw(st.sampled_from(idle))])

    @rule()
    def reset(self) -> None:
        self.blocks.reset_prefix_cache()
        self.content.clear()
        self.lru.clear()

    def held(self) -> Counter[int]:
        return Counter(b for table in self.tables for b in table.block_ids)

    @invariant()
    def references_are_what_tables_hold(self) -> None:
        held = self.held()
        assert [self.blocks.references(b) for b in range(NUM_BLOCKS)] == [
            held[b] for b in range(NUM_BLOCKS)
        ]
        assert self.blocks.num_free + len(held) == self.blocks.capacity
        assert 0 not in held

    @invariant()
    def writable_blocks_have_one_holder(self) -> None:
        held = self.held()
        for table in self.tables:
            full = len(table.tokens) // BLOCK_SIZE
            assert all(held[b] == 1 and b not in self.content for b in table.block_ids[full:])

    @invariant()
    def content_is_a_function_both_ways(self) -> None:
        assert self.blocks.num_cached == len(self.content)
        assert len(set(self.content.values())) == len(self.content)
        for table in self.tables:
            for index, block_id in enumerate(table.block_ids):
                expected = (table.salt, tuple(table.tokens[: (index + 1) * BLOCK_SIZE]))
                assert self.content.get(block_id, expected) == expected

    def teardown(self) -> None:
        for table in self.tables:
            self.blocks.free(table.block_ids)
        assert self.blocks.num_free == self.blocks.capacity


BlockManagerMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None
)
TestBlockManagerMachine = BlockManagerMachine.TestCase
