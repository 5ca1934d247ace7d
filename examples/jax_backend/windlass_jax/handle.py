"""A launched step, and what it says when it is done."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from windlass.step import Logprob, ScheduledRow, StepResult, TokenLogprobs
from windlass_jax.sampling import Logprobs

NOT_FINITE = "the model produced numbers that are not finite"


class TokenPart(NamedTuple):
    """Tokens int32 `[S]` of the rows that sampled, and how many alternatives each wants."""

    rows: list[ScheduledRow]
    tokens: jax.Array
    wanted: list[int | None]
    logprobs: Logprobs | None


class PromptPart(NamedTuple):
    """Log-probabilities of some prompt tokens of a request."""

    request_id: str
    targets: list[int]
    num_top: int
    logprobs: Logprobs


class Launched:
    """Implements `windlass.step.StepHandle`."""

    def __init__(
        self,
        step_id: int,
        hidden: jax.Array,
        sampled: TokenPart | None,
        prompts: list[PromptPart],
    ) -> None:
        self._step_id = step_id
        self._last = sampled.tokens if sampled is not None else hidden
        self._sampled = sampled
        self._prompts = prompts

    def done(self) -> bool:
        """Whether the device has finished."""
        arrays = [self._last, *(part.logprobs.top for part in self._prompts)]
        return all(array.is_ready() for array in arrays)  # type: ignore[attr-defined]

    def collect(self) -> StepResult:
        """Wait for the device and read what the step produced."""
        self._last.block_until_ready()
        result = StepResult(step_id=self._step_id, tokens={})
        if self._sampled is not None:
            _read_tokens(self._sampled, result)
        for part in self._prompts:
            entries = _entries(part.targets, part.logprobs, [part.num_top] * len(part.targets))
            result.prompt_logprobs.setdefault(part.request_id, []).extend(entries)
        return result


def _read_tokens(part: TokenPart, result: StepResult) -> None:
    tokens = np.asarray(part.tokens).tolist()
    for row, token in zip(part.rows, tokens, strict=False):
        if token >= 0:
            result.tokens[row.request_id] = token
        else:
            result.errors[row.request_id] = NOT_FINITE
    if part.logprobs is None:
        return
    counts = [count or 0 for count in part.wanted]
    entries = _entries(tokens[: len(counts)], part.logprobs, counts)
    for row, wanted, entry in zip(part.rows, part.wanted, entries, strict=True):
        if wanted is not None:
            result.logprobs[row.request_id] = entry


def _entries(tokens: list[int], logprobs: Logprobs, counts: list[int]) -> list[TokenLogprobs]:
    """Per position: the token itself first, then the alternatives by rank."""
    chosen, ranks, top_ids, top = (np.asarray(part).tolist() for part in logprobs)
    entries = []
    for i, (token, count) in enumerate(zip(tokens, counts, strict=True)):
        entry = {token: Logprob(chosen[i], ranks[i])}
        for rank in range(min(count, len(top_ids[i]))):
            entry.setdefault(top_ids[i][rank], Logprob(top[i][rank], rank + 1))
        entries.append(entry)
    return entries
