"""The start of a decode step in one call, against the reference op by op."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.kernels import step as reference
from windlass_cpu.built import library_path
from windlass_cpu.library import set_threads
from windlass_cpu.step import begin_decode

pytestmark = pytest.mark.skipif(library_path() is None, reason="the kernels were not built")

Table = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def request_table(sequences: int, columns: int, block_size: int, seed: int) -> Table:
    """Last tokens, positions and permuted block tables; the last row is padding."""
    generator = torch.Generator().manual_seed(seed)
    last_token = torch.randint(0, 2**40, (sequences + 1,), generator=generator)
    position = torch.randint(0, columns * block_size, (sequences + 1,), generator=generator)
    position[-1] = 0
    blocks = torch.randperm((sequences + 1) * columns, generator=generator)
    block_table = blocks.to(torch.int32).view(sequences + 1, columns)
    block_table[-1] = 0
    return last_token, position, block_table


def check(
    rows: torch.Tensor, table: Table, num_columns: int, block_size: int, slot_dtype: torch.dtype
) -> None:
    """The same outputs, and the same table afterwards."""
    last_token, position, block_table = (tensor.clone() for tensor in table)
    ours = begin_decode(
        rows, last_token, position, block_table, num_columns, block_size, slot_dtype
    )
    expected = reference.begin_decode(rows, *table, num_columns, block_size, slot_dtype)
    for one, other in zip(ours, expected, strict=True):
        assert one.dtype is other.dtype
        assert torch.equal(one, other)
    for one, other in zip((last_token, position, block_table), table, strict=True):
        assert torch.equal(one, other)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_equals_the_reference(data: st.DataObject) -> None:
    sequences, columns = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 9))
    block_size = data.draw(st.sampled_from([1, 16, 32, 48]))
    table = request_table(sequences, columns, block_size, data.draw(st.integers(0, 2**31)))
    real = data.draw(st.permutations(range(sequences)))[: data.draw(st.integers(0, sequences))]
    padding = [sequences] * data.draw(st.integers(0, 5))
    rows = torch.tensor(data.draw(st.permutations([*real, *padding])), dtype=torch.int32)
    longest = max((int(table[1][row]) for row in real), default=0)
    num_columns = data.draw(st.integers(longest // block_size + 1, columns + 1))
    slot_dtype = data.draw(st.sampled_from([torch.int32, torch.int64]))
    check(rows, table, num_columns, block_size, slot_dtype)


def test_slots_beyond_32_bits_are_not_cut() -> None:
    table = request_table(2, 1, 64, seed=0)
    table[2][0] = 2**31 - 1
    check(torch.tensor([0, 1], dtype=torch.int32), table, 1, 64, torch.int64)


def test_many_rows_are_shared_among_threads() -> None:
    set_threads(4)
    try:
        table = request_table(300, 700, 16, seed=1)
        rows = torch.randperm(301, generator=torch.Generator().manual_seed(2)).to(torch.int32)
        check(rows, table, 700, 16, torch.int64)
    finally:
        set_threads(torch.get_num_threads())


@pytest.mark.parametrize("layout", ["rows", "position", "block_table"])
def test_tensors_with_gaps_go_to_the_reference(layout: str) -> None:
    last_token, position, block_table = request_table(6, 4, 16, seed=3)
    rows = torch.tensor([0, 2, 4, 6], dtype=torch.int32)
    if layout == "rows":
        rows = torch.arange(0, 8, dtype=torch.int32)[::2]
    elif layout == "position":
        position = torch.stack((position, position), dim=1)[:, 0]
    else:
        block_table = block_table.repeat(1, 2)[:, :4]
    check(rows, (last_token, position, block_table), 4, 16, torch.int64)


@pytest.mark.parametrize("row", [-1, 7, 3])
def test_what_would_read_foreign_memory_is_refused(row: int) -> None:
    last_token, position, block_table = request_table(6, 4, 16, seed=4)
    position[3] = 4 * 16  # in no block
    before = position.clone()
    rows = torch.tensor([0, row], dtype=torch.int32)
    with pytest.raises(IndexError, match="each must be 0 to 6, and its position in the first 4"):
        begin_decode(rows, last_token, position, block_table, 4, 16, torch.int64)
    assert torch.equal(position, before)
