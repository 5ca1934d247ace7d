"""A decode step's first work in one call of the kernel library."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_int32, c_int64, c_void_p
from functools import cache
from typing import ClassVar

import torch

from windlass.kernels import step as reference
from windlass_cpu.library import declare, load_library

_SLOT_DTYPES = (torch.int64, torch.int32)


class _DecodeStart(ctypes.Structure):
    """`DecodeStart` of `csrc/step.h`."""

    _fields_: ClassVar = [
        ("rows", c_void_p),
        ("num_rows", c_int64),
        ("last_token", c_void_p),
        ("position", c_void_p),
        ("block_table", c_void_p),
        ("table_rows", c_int64),
        ("table_columns", c_int64),
        ("block_size", c_int64),
        ("token_ids", c_void_p),
        ("positions", c_void_p),
        ("seq_lens", c_void_p),
        ("slots", c_void_p),
        ("wide_slots", c_int32),
        ("blocks", c_void_p),
        ("num_columns", c_int64),
    ]


def begin_decode(
    rows: torch.Tensor,
    last_token: torch.Tensor,
    position: torch.Tensor,
    block_table: torch.Tensor,
    num_columns: int,
    block_size: int,
    slot_dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`windlass.kernels.step.begin_decode`.

    Raises:
        IndexError: a row is not one of the table's, or has its next position in no block of the
            columns; the table is then as it was.
    """
    table = (last_token, position, block_table)
    known = slot_dtype in _SLOT_DTYPES and all(tensor.is_contiguous() for tensor in (rows, *table))
    if not known or rows.dtype is not torch.int32:
        return reference.begin_decode(
            rows, last_token, position, block_table, num_columns, block_size, slot_dtype
        )
    count, (table_rows, table_columns) = len(rows), block_table.shape
    columns = min(num_columns, table_columns)
    token_ids, positions = position.new_empty(count), position.new_empty(count)
    seq_lens, slots = rows.new_empty(count), rows.new_empty(count, dtype=slot_dtype)
    blocks = rows.new_empty((count, columns))
    start = _DecodeStart(
        rows.data_ptr(),
        count,
        last_token.data_ptr(),
        position.data_ptr(),
        block_table.data_ptr(),
        table_rows,
        table_columns,
        block_size,
        token_ids.data_ptr(),
        positions.data_ptr(),
        seq_lens.data_ptr(),
        slots.data_ptr(),
        slot_dtype is torch.int64,
        blocks.data_ptr(),
        columns,
    )
    if _function()(ctypes.byref(start)) != 0:
        raise IndexError(
            f"rows: each must be 0 to {table_rows - 1}, and its position in the first "
            f"{columns} blocks of {block_size}"
        )
    return token_ids, positions, seq_lens, slots, blocks


@cache
def _function() -> Callable[..., int]:
    return declare(load_library(), "windlass_begin_decode", c_void_p)
