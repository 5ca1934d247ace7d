"""What penalties need to know: which tokens a sequence has seen. Memory is taken at first use."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from windlass.executor.request_table import RequestTable
from windlass.executor.transfers import Transfers


class PenaltyState:
    """Per row of the request table: prompt tokens (bool `[rows, V]`), output counts (int32)."""

    def __init__(
        self, num_rows: int, vocab_size: int, device: torch.device, transfers: Transfers
    ) -> None:
        self._shape = (num_rows, vocab_size)
        self._device = device
        self._transfers = transfers
        self._prompt: torch.Tensor | None = None
        self._counts: torch.Tensor | None = None

    def _state(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._prompt is None or self._counts is None:
            self._prompt = torch.zeros(self._shape, dtype=torch.bool, device=self._device)
            self._counts = torch.zeros(self._shape, dtype=torch.int32, device=self._device)
        return self._prompt, self._counts

    def start(self, row: int, prompt: Sequence[int], output: Sequence[int]) -> None:
        """Begin a row with the tokens known now."""
        seen, counts = self._state()
        seen[row], counts[row] = False, 0
        seen[row].index_fill_(0, self._transfers.upload(prompt, torch.int64), True)
        tokens = self._transfers.upload(output, torch.int64)
        counts[row].index_add_(0, tokens, torch.ones_like(tokens, dtype=torch.int32))

    def apply(
        self,
        penalties: Callable[..., torch.Tensor],
        logits: torch.Tensor,
        rows: torch.Tensor,
        table: RequestTable,
    ) -> torch.Tensor:
        """Logits `[S, V]` after the penalties of `rows` (neutral for rows without any)."""
        seen, counts = self._state()
        return penalties(
            logits,
            seen[rows],
            counts[rows],
            table.repetition[rows],
            table.frequency[rows],
            table.presence[rows],
        )

    def count(self, rows: torch.Tensor, tokens: torch.Tensor) -> None:
        """Count the tokens sampled for `rows`."""
        _, counts = self._state()
        counts[rows.long(), tokens] += 1
