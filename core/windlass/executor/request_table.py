"""The request table: the state of every running sequence, on the device, one stable row each.

A decode step is given the list of rows and nothing else: tokens, positions, slots and lengths
are read from here, and the sampled token is written back. So step n+1 can be launched before the
host has seen the result of step n, and a backend may capture the whole step as a graph.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from windlass.step import NewRow

ROW_WORDS = 11
"""32-bit words of one row's upload: see `pack_row`."""


def pack_row(new: NewRow, out: npt.NDArray[np.int32]) -> None:
    """Write a row's initial state into `ROW_WORDS` int32 words (floats as their bits)."""
    params = new.sampling
    seed = params.seed or 0
    out[0] = new.row
    out[1] = new.position
    out[2] = min(max(params.top_k, 0), np.iinfo(np.int32).max)
    words = np.array([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF], dtype=np.uint32)
    out[3:5] = words.view(np.int32)
    floats = np.array(
        [
            0.0 if params.greedy else params.temperature,
            params.top_p,
            params.min_p,
            params.repetition_penalty,
            params.frequency_penalty,
            params.presence_penalty,
        ],
        dtype=np.float32,
    )
    out[5:11] = floats.view(np.int32)


class RequestTable:
    """Tensors with one row per running sequence and a last, unused row for padding.

    Attributes:
        last_token: int64 `[rows]`, sampled last, the input of the next decode.
        position: int64 `[rows]`, tokens computed so far: the position of the next one.
        block_table: int32 `[rows, max_blocks]`, 0 (the null block) where unused.
        top_k: int32 `[rows]`; seed: int64 `[rows]`.
        temperature, top_p, min_p, repetition, frequency, presence: float32 `[rows]`.
    """

    def __init__(self, num_rows: int, max_blocks: int, device: torch.device):
        rows = num_rows + 1
        self.padding_row = num_rows
        self.last_token = torch.zeros(rows, dtype=torch.int64, device=device)
        self.position = torch.zeros(rows, dtype=torch.int64, device=device)
        self.block_table = torch.zeros(rows, max_blocks, dtype=torch.int32, device=device)
        self.top_k = torch.zeros(rows, dtype=torch.int32, device=device)
        self.seed = torch.zeros(rows, dtype=torch.int64, device=device)
        self._floats = torch.zeros(6, rows, dtype=torch.float32, device=device)
        self.temperature, self.top_p, self.min_p = self._floats[0], self._floats[1], self._floats[2]
        self.repetition, self.frequency = self._floats[3], self._floats[4]
        self.presence = self._floats[5]

    def fill_rows(self, words: torch.Tensor) -> None:
        """Start the rows described by int32 `[n, ROW_WORDS]` on the device."""
        rows = words[:, 0].long()
        self.position[rows] = words[:, 1].long()
        self.top_k[rows] = words[:, 2]
        low, high = words[:, 3].long() & 0xFFFFFFFF, words[:, 4].long()
        self.seed[rows] = low | (high << 32)
        self._floats[:, rows] = words[:, 5:11].contiguous().view(torch.float32).t()

    def append_blocks(self, triples: torch.Tensor) -> None:
        """Enter int32 `[n, 3]` of (row, index in its block table, block id)."""
        row, index, block = triples.unbind(1)
        self.block_table[row, index] = block

    def advance(self, rows: torch.Tensor, num_tokens: torch.Tensor | int) -> None:
        """Count computed tokens."""
        self.position[rows] += num_tokens

    def nbytes(self) -> int:
        """Device memory of the table."""
        tensors = (self.last_token, self.position, self.block_table, self.top_k, self.seed)
        return sum(tensor.nbytes for tensor in (*tensors, self._floats))
