"""A decode step's first and last work against the reference, with its padding row."""

from __future__ import annotations

import pytest
import torch

from windlass.kernels import step as reference
from windlass.kernels.triton.decode_step import begin_decode, next_tokens
from windlass.kernels.triton.launch import RowConfig
from windlass.kernels.triton.sampling import SampleConfig

NUM_ROWS = 9  # of the table; the last is padding


def table(device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Last tokens, positions and block tables."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(1, 1000, (NUM_ROWS, 21), generator=generator, dtype=torch.int32)
    blocks[-1] = 0
    position = torch.tensor([0, 5, 15, 16, 17, 31, 100, 200, 0])
    last_token = torch.randint(0, 99, (NUM_ROWS,), generator=generator)
    return last_token.to(device), position.to(device), blocks.to(device)


@pytest.mark.parametrize("slot_dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("rows", [[3], [0, 7, 2, 1], [6, 8, 8, 8], []])
def test_begin_decode(device: torch.device, rows: list[int], slot_dtype: torch.dtype) -> None:
    ours, theirs = table(device), table(device)
    index = torch.tensor(rows, dtype=torch.int32, device=device)
    actual = begin_decode(index, *ours, 14, 16, slot_dtype, RowConfig(block=8))
    expected = reference.begin_decode(index, *theirs, 14, 16, slot_dtype)
    for mine, other in zip(actual, expected, strict=True):
        assert mine.dtype == other.dtype
        assert torch.equal(mine, other)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)


def test_next_tokens(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 200, generator=generator).to(device) * 3
    logits[2, 7] = torch.nan
    logits[4] = -torch.inf
    rows = torch.tensor([1, 6, 0, 3, 2, 8], dtype=torch.int32, device=device)
    last_token = torch.full((NUM_ROWS,), -5, device=device)
    columns = {
        "position": torch.arange(NUM_ROWS, device=device),
        "temperature": torch.tensor([0.0, 0.9, 0, 1.2, 0, 0, 0.7, 0, 0], device=device),
        "top_k": torch.tensor([0, 9, 0, 0, 0, 0, 0, 0, 0], dtype=torch.int32, device=device),
        "top_p": torch.tensor([1, 1, 1, 0.9, 1, 1, 1, 1, 1.0], device=device),
        "min_p": torch.zeros(NUM_ROWS, device=device),
        "seed": torch.arange(NUM_ROWS, device=device) * 7919,
    }
    config = SampleConfig(block=64, group=8, kept=16, num_warps=1, choose_warps=1)
    theirs = last_token.clone()
    tokens, finite = next_tokens(logits, rows, last_token, **columns, config=config)
    expected, expected_finite = reference.next_tokens(logits, rows, theirs, **columns)
    assert torch.equal(finite, expected_finite)
    assert torch.equal(tokens[finite], expected[finite])
    assert ((tokens >= 0) & (tokens < 200)).all()
    assert torch.equal(last_token[rows.long()], tokens)
    assert last_token[[4, 5, 7]].eq(-5).all()
