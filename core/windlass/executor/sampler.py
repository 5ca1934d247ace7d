"""The sampler: from logits to tokens, each request with its own parameters.

Parameters live in the request table; the host only remembers which rows use which feature, so
that a step pays for nothing that none of its rows asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from windlass.backend import Backend
from windlass.executor.penalties import PenaltyState
from windlass.executor.request_table import RequestTable
from windlass.executor.token_masks import TokenMasks
from windlass.executor.transfers import Transfers
from windlass.request import SamplingParams
from windlass.step import NewRow, ScheduledRow


@dataclass(slots=True)
class SampledStep:
    """What sampling produced, on the device.

    `tokens` int64 `[S]`, -1 where the row's logits were not finite numbers; `logprobs` for the
    sampled rows that `logprob_counts` maps to a number of alternatives: chosen, rank, top ids,
    top. `errors` says why a sampled row has no token that could be used.
    """

    tokens: torch.Tensor
    logprob_counts: dict[int, int] = field(default_factory=dict)
    logprobs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor] | None = None
    errors: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Features:
    """The rows that use a feature."""

    random: set[int] = field(default_factory=set)
    top_k: set[int] = field(default_factory=set)
    top_p: set[int] = field(default_factory=set)
    min_p: set[int] = field(default_factory=set)
    penalties: set[int] = field(default_factory=set)
    logprobs: dict[int, int] = field(default_factory=dict)
    prompt_logprobs: dict[int, int] = field(default_factory=dict)
    bias: dict[int, dict[int, float]] = field(default_factory=dict)
    min_tokens: dict[int, tuple[int, tuple[int, ...]]] = field(default_factory=dict)

    def discard(self, row: int) -> None:
        for rows in (self.random, self.top_k, self.top_p, self.min_p, self.penalties):
            rows.discard(row)
        self.logprobs.pop(row, None)
        self.prompt_logprobs.pop(row, None)
        self.bias.pop(row, None)
        self.min_tokens.pop(row, None)


class Sampler:
    """Chooses the next token of every sampled row, and enters it in the table."""

    def __init__(
        self,
        backend: Backend,
        table: RequestTable,
        vocab_size: int,
        transfers: Transfers,
        masks: TokenMasks,
    ) -> None:
        self._ops = backend.ops
        self._masks = masks
        self._table = table
        self._transfers = transfers
        self._features = _Features()
        self._penalties = PenaltyState(
            len(table.position), vocab_size, backend.device.torch_device, transfers
        )

    def add_row(self, new: NewRow) -> None:
        """Remember what the row's request asks for."""
        features, params, row = self._features, new.sampling, new.row
        features.discard(row)
        self._masks.remove_row(row)
        self._masks.add_row(new)
        if not params.greedy:
            features.random.add(row)
            self._add_filters(params, row)
        if params.has_penalties:
            features.penalties.add(row)
            self._penalties.start(
                row, new.token_ids[: new.prompt_len], new.token_ids[new.prompt_len :]
            )
        if params.logprobs is not None:
            features.logprobs[row] = params.logprobs
        if params.prompt_logprobs is not None:
            features.prompt_logprobs[row] = params.prompt_logprobs
        if params.logit_bias:
            features.bias[row] = params.logit_bias
        if params.min_tokens and new.stop_token_ids:
            features.min_tokens[row] = (params.min_tokens, new.stop_token_ids)

    def _add_filters(self, params: SamplingParams, row: int) -> None:
        if params.top_k > 0:
            self._features.top_k.add(row)
        if params.top_p < 1.0:
            self._features.top_p.add(row)
        if params.min_p > 0.0:
            self._features.min_p.add(row)

    def remove_row(self, row: int) -> None:
        """Forget a row."""
        self._features.discard(row)
        self._masks.remove_row(row)

    def needs_logits(self, scheduled: list[ScheduledRow]) -> bool:
        """Whether a row asks for more than the op `next_tokens` knows."""
        features = self._features
        special = (
            features.penalties,
            features.logprobs,
            features.bias,
            features.min_tokens,
            self._masks,
        )
        return any(special) and any(row.row in rows for row in scheduled for rows in special)

    def sample(
        self, logits: torch.Tensor, rows: torch.Tensor, scheduled: list[ScheduledRow]
    ) -> SampledStep:
        """Sample from float32 `logits` `[S, V]` of the table's `rows` (int32 `[S]`).

        The table's `position` already counts this step's tokens: it is the new token's position.
        """
        raw, features = logits, self._features
        masks = self._masks if any(row.row in self._masks for row in scheduled) else None
        if masks is not None:
            masks.catch_up()
            logits = masks.process(logits, scheduled)
        logits = self._adjust(logits, scheduled)
        if features.penalties:
            logits = self._penalties.apply(self._ops.penalties, logits, rows, self._table)
        if masks is not None:
            logits = masks.restrict(logits, scheduled)
        largest, tokens = self._ops.greedy(logits)
        if features.random:
            tokens = self._sample_random(logits, rows)
        if features.penalties:
            self._penalties.count(rows, tokens)
        counts = {
            i: features.logprobs[row.row]
            for i, row in enumerate(scheduled)
            if row.row in features.logprobs
        }
        logprobs = self._logprobs(raw, tokens, counts) if counts else None
        self._table.last_token[rows] = tokens
        finite = torch.where(torch.isfinite(largest), tokens, -1)
        errors = {} if masks is None else masks.errors(scheduled)
        return SampledStep(finite, counts, logprobs, errors)

    def _sample_random(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        table, features = self._table, self._features
        sampled: torch.Tensor = self._ops.sample(
            logits,
            table.temperature[rows],
            table.top_k[rows] if features.top_k else None,
            table.top_p[rows] if features.top_p else None,
            table.min_p[rows] if features.min_p else None,
            table.seed[rows],
            table.position[rows],
        )
        return sampled

    def _adjust(self, logits: torch.Tensor, scheduled: list[ScheduledRow]) -> torch.Tensor:
        """Add logit biases; forbid stop tokens where min_tokens is not reached."""
        features = self._features
        if not features.bias and not features.min_tokens:
            return logits
        entries: list[tuple[int, int, float]] = []
        for i, row in enumerate(scheduled):
            for token_id, bias in features.bias.get(row.row, {}).items():
                entries.append((i, token_id, bias))
            min_tokens, stops = features.min_tokens.get(row.row, (0, ()))
            if row.output_index < min_tokens:
                for token_id in stops:
                    entries.append((i, token_id, -torch.inf))
        if not entries:
            return logits
        index, token, value = zip(*entries, strict=True)
        where = self._transfers.upload((index, token), torch.int64)
        amount = self._transfers.upload(value, torch.float32)
        return logits.index_put((where[0], where[1]), amount, accumulate=True)

    def _logprobs(
        self, raw: torch.Tensor, tokens: torch.Tensor, counts: dict[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        if len(counts) < len(tokens):
            index = self._transfers.upload(list(counts), torch.int64)
            raw, tokens = raw[index], tokens[index]
        result: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
        result = self._ops.token_logprobs(raw, tokens, max(counts.values()))
        return result

    def num_prompt_logprobs(self, row: int) -> int:
        """How many alternatives per prompt token the row's request wants."""
        return self._features.prompt_logprobs[row]
