"""Everything the device must learn for one step, in one packed upload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from windlass.backend import Backend
from windlass.executor.request_table import ROW_WORDS, pack_row
from windlass.step import ScheduledRow, StepPlan

_BUFFERS = 4
"""Staging buffers in turn. The engine launches step n+4 after it has collected step n+2, so a
buffer is never rewritten before the device has read it."""


@dataclass(slots=True)
class UploadedStep:
    """Views of the upload, on the device; None or empty where the step has nothing of the kind.

    `rows` int32 `[R]`; `cu_seqlens_q` int32 `[R+1]`; `query_lens` int32 `[R]`;
    `prefill_tokens` int32 `[P]`; `sampled` int32 `[S]` indexes `rows`.
    """

    new_rows: torch.Tensor | None
    new_blocks: torch.Tensor | None
    rows: torch.Tensor
    cu_seqlens_q: torch.Tensor
    query_lens: torch.Tensor
    prefill_tokens: torch.Tensor
    sampled: torch.Tensor


class StepUploader:
    """Packs plans into int32 words and copies them with one transfer.

    A decode step over the same rows as the step before, without new blocks, uploads nothing.
    """

    def __init__(self, backend: Backend):
        self._backend = backend
        self._staging = [torch.zeros(0, dtype=torch.int32)] * _BUFFERS
        self._turn = 0
        self._decode_rows: list[int] = []
        self._decode_views: UploadedStep | None = None
        self.uploads = 0

    def upload(self, plan: StepPlan) -> UploadedStep:
        """Views of everything in `plan` on the device."""
        rows = [scheduled.row for scheduled in plan.rows]
        decode_only = all(row.is_decode for row in plan.rows)
        changed = bool(plan.new_rows or plan.new_blocks)
        if decode_only and not changed and rows == self._decode_rows and self._decode_views:
            return self._decode_views
        views = self._pack(plan, rows)
        if decode_only:
            self._decode_rows = rows
            self._decode_views = UploadedStep(
                None,
                None,
                views.rows.clone(),
                views.cu_seqlens_q.clone(),
                views.query_lens.clone(),
                views.prefill_tokens[:0],
                views.sampled.clone(),
            )
        return views

    def reset(self) -> None:
        """Forget which rows the last decode had."""
        self._decode_rows, self._decode_views = [], None

    def _pack(self, plan: StepPlan, rows: list[int]) -> UploadedStep:
        blocks = _new_blocks(plan)
        lens = [scheduled.num_tokens for scheduled in plan.rows]
        tokens = _prefill_tokens(plan.rows)
        sampled = [i for i, scheduled in enumerate(plan.rows) if scheduled.samples]
        cu_seqlens = np.zeros(len(rows) + 1, dtype=np.int32)
        np.cumsum(lens, out=cu_seqlens[1:])
        counts = (len(rows), len(rows) + 1, len(rows), len(tokens), len(sampled))
        sizes = [len(plan.new_rows) * ROW_WORDS, blocks.size, *counts]
        staging = self._stage(sum(sizes))
        host = staging.numpy()
        for i, new in enumerate(plan.new_rows):
            pack_row(new, host[i * ROW_WORDS : (i + 1) * ROW_WORDS])
        start = sizes[0]
        for part in (blocks.ravel(), rows, cu_seqlens, lens, tokens, sampled):
            host[start : start + len(part)] = part
            start += len(part)
        self.uploads += 1
        device = staging.to(self._backend.device.torch_device, non_blocking=True)
        if device is staging:
            device = staging.clone()
        parts = device.split_with_sizes(sizes)
        return UploadedStep(
            new_rows=parts[0].view(-1, ROW_WORDS) if sizes[0] else None,
            new_blocks=parts[1].view(-1, 3) if sizes[1] else None,
            rows=parts[2],
            cu_seqlens_q=parts[3],
            query_lens=parts[4],
            prefill_tokens=parts[5],
            sampled=parts[6],
        )

    def _stage(self, words: int) -> torch.Tensor:
        """The next staging buffer, at least `words` long, cut to that length."""
        self._turn = (self._turn + 1) % _BUFFERS
        if self._staging[self._turn].numel() < words:
            nbytes = 4 * max(1024, 2 * words)
            buffer = self._backend.allocator.host(nbytes, pinned=True)
            self._staging[self._turn] = buffer.view(torch.int32)
        return self._staging[self._turn][:words]


def _new_blocks(plan: StepPlan) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """(row, index, block) of whole block tables of new rows, then of single blocks: `[n, 3]`."""
    tables = [
        np.stack(
            (
                np.full(len(new.block_ids), new.row, dtype=np.int32),
                np.arange(len(new.block_ids), dtype=np.int32),
                np.asarray(new.block_ids, dtype=np.int32),
            ),
            axis=1,
        )
        for new in plan.new_rows
        if new.block_ids
    ]
    if plan.new_blocks:
        tables.append(np.asarray(plan.new_blocks, dtype=np.int32))
    return np.concatenate(tables) if tables else np.zeros((0, 3), dtype=np.int32)


def _prefill_tokens(rows: Sequence[ScheduledRow]) -> list[int]:
    tokens: list[int] = []
    for scheduled in rows:
        tokens += scheduled.token_ids
    return tokens
