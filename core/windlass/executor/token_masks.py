"""Rows whose next token depends on what the host knows: grammars, allowed tokens, processors.

A mask for the token of this step needs the token of the step before. That token comes from the
device, so nothing is computed here before this step's forward pass has been queued: while the
device works on it, the host waits for the token, advances the matchers and fills the masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from windlass.backend import Backend, Event
from windlass.errors import WindlassError
from windlass.executor.logits_processors import LogitsProcessor, LogitsProcessors
from windlass.executor.transfers import Transfers
from windlass.step import NewRow, ScheduledRow
from windlass.structured_output.matcher import Matchers, is_constrained

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher

_ALL = -1
"""A word of a mask that allows all of its 32 tokens."""


@dataclass(slots=True, eq=False)
class _Row:
    """What the host knows of a row; `error` says why its request ends."""

    stop_ids: frozenset[int]
    output: list[int]
    matcher: LLMatcher | None = None
    allowed: torch.Tensor | None = None
    processors: list[LogitsProcessor] = field(default_factory=list)
    ended: bool = False
    error: str = ""

    def take(self, token: int) -> None:
        """Go on behind a sampled token."""
        if token < 0 or self.error or self.ended:
            return
        self.output.append(token)
        if token in self.stop_ids:
            self.ended = True
        elif self.matcher is not None and not self.matcher.consume_token(token):
            self.error = "the constraint could not follow the output"


@dataclass(slots=True)
class _Sampled:
    """Tokens on their way to the host, and the rows they belong to."""

    event: Event
    tokens: torch.Tensor
    rows: list[tuple[int, _Row]]


class TokenMasks:
    """The host's part in choosing tokens. `windlass.executor.sampler` calls it in every step."""

    def __init__(
        self,
        backend: Backend,
        vocab_size: int,
        transfers: Transfers,
        matchers: Matchers,
        processors: LogitsProcessors,
    ) -> None:
        self._ops = backend.ops
        self._vocab_size = vocab_size
        self._transfers = transfers
        self._matchers = matchers
        self._processors = processors
        self._rows: dict[int, _Row] = {}
        self._sampled: list[_Sampled] = []
        self._executor: LLExecutor | None = None

    def __contains__(self, row: int) -> bool:
        return row in self._rows

    def __bool__(self) -> bool:
        return bool(self._rows)

    def add_row(self, new: NewRow) -> None:
        """Begin a row, after the outputs that it has already."""
        sampling, output = new.sampling, new.token_ids[new.prompt_len :]
        if not (
            is_constrained(sampling)
            or sampling.allowed_token_ids is not None
            or sampling.extra_args
        ):
            return
        row = self._rows[new.row] = _Row(frozenset(new.stop_token_ids), output)
        try:
            if is_constrained(sampling):
                row.matcher = self._matchers.start(sampling, output)
            row.processors = self._processors.make(sampling.extra_args or {})
        except WindlassError as error:
            row.error = str(error)
        if sampling.allowed_token_ids is not None:
            row.allowed = self._static_mask(sampling.allowed_token_ids)

    def _static_mask(self, allowed: Sequence[int]) -> torch.Tensor:
        ids = np.unique(np.asarray(allowed, dtype=np.int64))
        words = np.zeros(self._words, dtype=np.uint32)
        np.bitwise_or.at(words, ids // 32, np.uint32(1) << (ids % 32).astype(np.uint32))
        return self._transfers.upload_array(words.view(np.int32))

    @property
    def _words(self) -> int:
        return -(-self._vocab_size // 32)

    def remove_row(self, row: int) -> None:
        """Forget a row; what it sampled before does not matter any more."""
        self._rows.pop(row, None)

    def clear(self) -> None:
        """Forget every row and every step."""
        self._rows.clear()
        self._sampled.clear()

    def launched(self, scheduled: list[ScheduledRow], tokens: torch.Tensor, event: Event) -> None:
        """Note that the host copy `tokens` of what `scheduled` sampled is valid after `event`."""
        rows = [(i, self._rows[s.row]) for i, s in enumerate(scheduled) if s.row in self._rows]
        if rows:
            self._sampled.append(_Sampled(event, tokens, rows))

    def catch_up(self) -> None:
        """Wait for the tokens of earlier steps and take them in."""
        sampled, self._sampled = self._sampled, []
        for step in sampled:
            step.event.synchronize()
            tokens = step.tokens.tolist()
            for i, row in step.rows:
                row.take(tokens[i])

    def process(self, logits: torch.Tensor, scheduled: list[ScheduledRow]) -> torch.Tensor:
        """Logits `[S, V]` after the logits processors of their rows."""
        changed = logits
        for i, row in self._of(scheduled):
            if not row.processors or row.error:
                continue
            if changed is logits:
                changed = logits.clone()
            try:
                for processor in row.processors:
                    changed[i] = processor(row.output, changed[i])
            except Exception as error:  # noqa: BLE001 - a plugin's fault ends its own request only
                row.error = f"a logits processor failed: {type(error).__name__}"
                changed[i] = logits[i]
        return changed

    def restrict(self, logits: torch.Tensor, scheduled: list[ScheduledRow]) -> torch.Tensor:
        """Logits `[S, V]`, minus infinity where a row's token is not allowed."""
        rows = {
            i: row
            for i, row in self._of(scheduled)
            if (row.matcher or row.allowed is not None) and not row.error
        }
        if not rows:
            return logits
        masked: torch.Tensor = self._ops.apply_token_mask(logits, self._masks(rows, logits))
        return masked

    def errors(self, scheduled: list[ScheduledRow]) -> dict[int, str]:
        """The rows that end with an error, by their place among `scheduled`."""
        return {i: row.error for i, row in self._of(scheduled) if row.error}

    def _of(self, scheduled: list[ScheduledRow]) -> list[tuple[int, _Row]]:
        return [(i, self._rows[s.row]) for i, s in enumerate(scheduled) if s.row in self._rows]

    def _masks(self, rows: dict[int, _Row], logits: torch.Tensor) -> torch.Tensor:
        """A mask for every row of `logits`, int32 `[S, ceil(V / 32)]`; others allow all tokens."""
        matched = [i for i, row in rows.items() if row.matcher is not None]
        static = {i: row.allowed for i, row in rows.items() if row.allowed is not None}
        whole = logits.new_full((len(logits), self._words), _ALL, dtype=torch.int32)
        if matched:
            masks = self._transfers.upload_array(self._fill([rows[i] for i in matched]))
            if len(matched) == len(logits):
                return masks
            whole[self._transfers.upload(matched, torch.int64)] = masks
        if static:
            places = self._transfers.upload(list(static), torch.int64)
            whole[places] = torch.stack(list(static.values()))
        return whole

    def _fill(self, rows: list[_Row]) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
        """Masks of rows with a matcher, several at once on llguidance's threads."""
        from llguidance.numpy import fill_next_token_bitmask_par

        if self._executor is None:
            from llguidance import LLExecutor

            self._executor = LLExecutor()
        masks = np.full((len(rows), self._words), _ALL, dtype=np.int32)
        live = [(row, i) for i, row in enumerate(rows) if not row.ended]
        matchers = [(row.matcher, i) for row, i in live if row.matcher is not None]
        if matchers:
            fill_next_token_bitmask_par(self._executor, matchers, masks)
        for row, i in live:
            assert row.matcher is not None
            if row.matcher.is_error():
                row.error = "the constraint is too complex for this output"
                masks[i] = _ALL
            else:
                _adjust_stops(masks[i], row, self._vocab_size)
        return masks


def _adjust_stops(
    mask: np.ndarray[tuple[int, ...], np.dtype[np.int32]], row: _Row, vocab_size: int
) -> None:
    """Allow every token that stops where the output is complete, and elsewhere none of them.

    Where only a stop token could follow, it stays allowed: the grammar itself asks for it.
    """
    assert row.matcher is not None
    stops = [token for token in row.stop_ids if token < vocab_size]
    words = mask.view(np.uint32)
    if row.matcher.is_accepting():
        for token in stops:
            words[token // 32] |= np.uint32(1 << (token % 32))
        return
    before = words.copy()
    for token in stops:
        words[token // 32] &= np.uint32(~(1 << (token % 32)) & 0xFFFFFFFF)
    if not words.any():
        words[:] = before
