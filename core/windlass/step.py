"""The data that crosses from the scheduler to a model runner and back: plain, no torch.

A plan is a list of *deltas*. The runner keeps one row per running sequence in its request table;
`new_rows` fills rows, `new_blocks` appends to block tables, everything else (positions, slots,
lengths, the token sampled last) is already there. Rows are stable while a sequence runs.

A runner may read a plan long after `launch` returned (another thread, another process): once
scheduled, a plan and everything in it is never changed again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from windlass.config import ModelInfo
from windlass.request import Logprob, SamplingParams, TokenLogprobs

# Parts of a request stand in plans and results: a runner of a plugin's own takes them from here.
__all__ = [
    "Logprob",
    "ModelRunner",
    "NewRow",
    "SamplingParams",
    "ScheduledRow",
    "StepHandle",
    "StepPlan",
    "StepResult",
    "TokenLogprobs",
]


@dataclass(slots=True)
class NewRow:
    """A sequence enters the request table (first time, or again after preemption).

    `position` is the index of its first token to compute (what lies before is cached);
    `block_ids` is its whole block table so far. `prompt_len` splits `token_ids` (every token
    known now) into prompt and output, which penalties treat apart.
    """

    row: int
    request_id: str
    sampling: SamplingParams
    position: int
    token_ids: list[int]
    prompt_len: int
    block_ids: list[int]
    stop_token_ids: tuple[int, ...] = ()


class ScheduledRow(msgspec.Struct, gc=False):
    """One sequence's part of a step. A struct, for a step makes hundreds of them.

    A decode computes the token in the table's `last_token` (`token_ids` empty). A prefill chunk
    computes `token_ids`, which start at `start`. `samples` says that a token is sampled after the
    last one; `output_index` is that token's index among the sequence's output tokens.
    `prompt_targets` are the tokens whose log-probabilities are wanted: those that follow each
    chunk token within the prompt, so one fewer than chunk tokens where the chunk ends the prompt.
    """

    row: int
    request_id: str
    start: int
    num_tokens: int
    token_ids: list[int]
    samples: bool
    output_index: int
    prompt_targets: list[int] | None = None

    @property
    def is_decode(self) -> bool:
        """Whether the input token is the one sampled last, already on the device."""
        return not self.token_ids


@dataclass(slots=True)
class StepPlan:
    """Everything the runner needs for one step. Decodes stand before prefill chunks in `rows`.

    `new_blocks` holds (row, index in its block table, block id). `freed_rows` may be reused by
    `new_rows` of the same plan.
    """

    step_id: int
    rows: list[ScheduledRow]
    new_rows: list[NewRow] = field(default_factory=list)
    new_blocks: list[tuple[int, int, int]] = field(default_factory=list)
    freed_rows: list[int] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """Tokens computed in this step."""
        return sum(row.num_tokens for row in self.rows)


@dataclass(slots=True)
class StepResult:
    """What a step produced, keyed by request id.

    `tokens` has the sampled token of every row that sampled and did not fail; `errors` names the
    rows whose numbers are not finite. `prompt_logprobs` has one entry per prompt target.
    """

    step_id: int
    tokens: dict[str, int]
    logprobs: dict[str, TokenLogprobs] = field(default_factory=dict)
    prompt_logprobs: dict[str, list[TokenLogprobs]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


class StepHandle(Protocol):
    """A launched step."""

    def done(self) -> bool:
        """Whether `collect` would return without waiting."""
        ...

    def collect(self) -> StepResult:
        """Wait for the step and return what it produced; raises what the step raised."""
        ...


class ModelRunner(Protocol):
    """Runs plans on some hardware: the seam between the engine and every executor.

    The engine calls `launch` for step n+1 before it collects step n. Steps take effect in launch
    order. After a `collect` that raised, the engine collects every launched step, then calls
    `reset`, after which no row is in use and no KV content is relied upon.

    A runner whose ModelInfo says `structured_outputs` keeps to what `NewRow.sampling` says of them,
    of `bad_words`, `allowed_token_ids` and `extra_args`. It may have a method `prepare(sampling)`
    that begins, on threads of its own, what such a request needs, and returns a
    `concurrent.futures.Future` or None; the engine schedules the request when that is done, and
    ends it with what the future raises. A RequestError from `prepare` itself refuses the request.
    """

    def load(self, progress: Callable[[str, float], None] | None = None) -> ModelInfo:
        """Load weights, size and reserve the KV cache; `progress` gets (what, share done)."""
        ...

    def launch(self, plan: StepPlan) -> StepHandle:
        """Start a step without waiting for it."""
        ...

    def reset(self) -> None:
        """Forget every row."""
        ...

    def close(self) -> None:
        """Give back device memory and threads."""
        ...
