"""A model runner without a model that checks every KV slot it reads.

Each slot stores what a real cache would depend on: the token, its position and a hash of the
whole prefix. A step reads the slots through the block table it was given, compares them with the
request's own history and makes the next token from what it *read*. So a wrong block table, a
block freed too early, a stale slot or a token too many changes the output, and is noted in
`violations`.

Steps run as late as a device may run them, in `collect`: a plan that is changed after `launch`,
or an engine that peeks at results, is found out. It can fail on purpose: see `Faults`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from windlass.config import ModelInfo
from windlass.request import Logprob, SamplingParams, TokenLogprobs
from windlass.step import NewRow, ScheduledRow, StepHandle, StepPlan, StepResult

_MASK = (1 << 64) - 1

Content = tuple[int, int, int]
"""What a slot holds: token, position, hash of the prefix that ends with the token."""

_NOT_FINITE: Content = (-1, -1, -1)


class StepFailedError(RuntimeError):
    """A step failed because a test wanted it to."""


@dataclass(slots=True)
class Faults:
    """What goes wrong.

    `steps` are launches, counted from 0 over the runner's life. A request of `poison` makes every
    step fail that it is part of. `not_finite` holds (request id, output index): that token's
    numbers, and the KV computed for it, are not finite. A step of more than `max_rows` rows
    fails. `at_launch` makes `launch` raise instead of `collect`.
    """

    steps: set[int] = field(default_factory=set)
    poison: set[str] = field(default_factory=set)
    not_finite: set[tuple[str, int]] = field(default_factory=set)
    max_rows: int | None = None
    at_launch: bool = False

    def hit(self, launch: int, plan: StepPlan) -> bool:
        """Whether this step fails."""
        too_large = self.max_rows is not None and len(plan.rows) > self.max_rows
        poisoned = any(row.request_id in self.poison for row in plan.rows)
        return too_large or poisoned or launch in self.steps


@dataclass(slots=True)
class _Row:
    """One row of the request table: `tokens` are known to the device, `hashes` run beside them."""

    request_id: str
    sampling: SamplingParams
    stop_token_ids: tuple[int, ...]
    prompt_len: int
    position: int
    block_ids: list[int]
    tokens: list[int] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)

    def append(self, token: int) -> None:
        """Add a token behind the last one."""
        self.tokens.append(token)
        self.hashes.append(_mix(self.hashes[-1] if self.hashes else 0, token + 1))


def _mix(state: int, value: int) -> int:
    state = ((state ^ value) * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & _MASK
    return state ^ (state >> 29)


class ContentRunner:
    """Implements `windlass.step.ModelRunner` on a list of slots.

    `observer` sees each plan when it is launched. `violations` says in words what an engine did
    wrong; nothing is raised for it, so that failure isolation cannot hide it.
    """

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        max_num_seqs: int = 8,
        max_model_len: int = 128,
        vocab_size: int = 512,
        eos_token_ids: tuple[int, ...] = (),
        faults: Faults | None = None,
        observer: Callable[[StepPlan], None] | None = None,
    ) -> None:
        self.info = ModelInfo(
            model="content-check",
            architecture="none",
            backend="none",
            device="host",
            dtype="none",
            vocab_size=vocab_size,
            max_model_len=max_model_len,
            block_size=block_size,
            num_blocks=num_blocks,
            max_num_seqs=max_num_seqs,
            num_parameters=0,
            weight_bytes=0,
            kv_cache_bytes=0,
            load_seconds=0.0,
            eos_token_ids=eos_token_ids,
        )
        self.faults = faults or Faults()
        self.violations: list[str] = []
        self.num_launches = 0
        self.num_resets = 0
        self._observer = observer
        self._launched: deque[_Handle] = deque()
        self._failed = False
        self._forget()

    def load(self, progress: Callable[[str, float], None] | None = None) -> ModelInfo:
        """Return the shape given at construction."""
        if progress is not None:
            progress("nothing", 1.0)
        return self.info

    def launch(self, plan: StepPlan) -> StepHandle:
        """Queue a step; it runs when it is collected."""
        if self._observer is not None:
            self._observer(plan)
        number = self.num_launches
        self.num_launches += 1
        fails = self._failed or self.faults.hit(number, plan)
        if fails and self.faults.at_launch:
            self._failed = True
            raise StepFailedError(f"launch {number}")
        handle = _Handle(self, plan, fails)
        self._launched.append(handle)
        return handle

    def reset(self) -> None:
        """Forget every row and every slot."""
        if self._launched:
            self.violations.append("reset before every launched step was collected")
        self.num_resets += 1
        self._failed = False
        self._forget()

    def close(self) -> None:
        """Do nothing: there is nothing to give back."""

    def _forget(self) -> None:
        self._rows: list[_Row | None] = [None] * self.info.max_num_seqs
        self._slots: list[Content | None] = [None] * (self.info.num_blocks * self.info.block_size)

    def _collect(self, handle: _Handle) -> StepResult:
        if not self._launched or self._launched[0] is not handle:
            self.violations.append("steps were collected out of order, or twice")
        self._launched.remove(handle)
        self._failed = self._failed or handle.fails
        if self._failed:
            raise StepFailedError(f"step {handle.plan.step_id}")
        return self._run(handle.plan)

    def _run(self, plan: StepPlan) -> StepResult:
        for freed in plan.freed_rows:
            self._expect(self._rows[freed] is not None, f"row {freed} was freed twice")
            self._rows[freed] = None
        for new in plan.new_rows:
            self._add_row(new)
        for number, index, block_id in plan.new_blocks:
            blocks = self._row(number).block_ids
            self._expect(index == len(blocks), f"row {number}: block {index} is not the next")
            blocks.append(block_id)
        order = [scheduled.is_decode for scheduled in plan.rows]
        self._expect(order == sorted(order, reverse=True), "a prefill stands before a decode")
        written: set[int] = set()
        for scheduled in plan.rows:
            self._write(scheduled, written)
        result = StepResult(step_id=plan.step_id, tokens={})
        for scheduled in plan.rows:
            self._attend(scheduled, result)
        return result

    def _add_row(self, new: NewRow) -> None:
        self._expect(self._rows[new.row] is None, f"row {new.row} is in use")
        row = _Row(
            new.request_id,
            new.sampling,
            new.stop_token_ids,
            new.prompt_len,
            new.position,
            list(new.block_ids),
        )
        for token in new.token_ids:
            row.append(token)
        self._rows[new.row] = row

    def _row(self, number: int) -> _Row:
        row = self._rows[number]
        if row is None:
            raise IndexError(f"row {number} is not in use")
        return row

    def _expect(self, ok: bool, what: str) -> None:
        if not ok:
            self.violations.append(what)

    def _slot(self, row: _Row, position: int) -> int:
        """Slot of a position; the null block's when the table is too short or names it."""
        index, offset = divmod(position, self.info.block_size)
        block_id = row.block_ids[index] if index < len(row.block_ids) else 0
        self._expect(block_id > 0, f"{row.request_id}: position {position} has no block")
        return block_id * self.info.block_size + offset

    def _write(self, scheduled: ScheduledRow, written: set[int]) -> None:
        """Write the KV of a row's tokens; every row writes before any row reads."""
        row = self._row(scheduled.row)
        name, start, end = row.request_id, row.position, row.position + scheduled.num_tokens
        tokens = scheduled.token_ids or row.tokens[-1:]
        self._expect(scheduled.request_id == name, f"{name}: its row runs another request")
        self._expect(scheduled.start == start, f"{name}: starts at {scheduled.start}, not {start}")
        self._expect(tokens == row.tokens[start:end], f"{name}: computes tokens it does not have")
        self._expect(len(tokens) == scheduled.num_tokens, f"{name}: tokens are miscounted")
        self._expect(
            scheduled.samples == (end == len(row.tokens)), f"{name}: samples at the wrong place"
        )
        finite = (name, scheduled.output_index) not in self.faults.not_finite
        for position in range(start, min(end, len(row.tokens))):
            slot = self._slot(row, position)
            self._expect(slot not in written, f"slot {slot} is written twice in one step")
            written.add(slot)
            content = (row.tokens[position], position, row.hashes[position])
            self._slots[slot] = content if finite else _NOT_FINITE

    def _attend(self, scheduled: ScheduledRow, result: StepResult) -> None:
        """Read a row's whole prefix, then sample when the step asks for it."""
        row = self._row(scheduled.row)
        name, start, end = row.request_id, row.position, row.position + scheduled.num_tokens
        row.position = end
        digest, finite = self._read(row, end)
        if not finite:
            for position in range(start, end):
                self._slots[self._slot(row, position)] = _NOT_FINITE
        if scheduled.prompt_targets:
            result.prompt_logprobs[name] = self._prompt_logprobs(row, start, scheduled)
        if not scheduled.samples:
            return
        index = len(row.tokens) - row.prompt_len
        self._expect(scheduled.output_index == index, f"{name}: output {index} is misnumbered")
        token = self._sample(row, digest, scheduled.output_index)
        row.append(token)
        if not finite:
            result.errors[name] = "the numbers are not finite"
            return
        result.tokens[name] = token
        if row.sampling.logprobs is not None:
            result.logprobs[name] = _logprobs(token, digest, row.sampling.logprobs)

    def _read(self, row: _Row, end: int) -> tuple[int, bool]:
        """Digest of what the slots of positions 0 .. end-1 hold, and whether all is finite."""
        digest, finite = 0, True
        for position in range(end):
            content = self._slots[self._slot(row, position)]
            if content == _NOT_FINITE:
                finite = False
                continue
            expected = (row.tokens[position], position, row.hashes[position])
            self._expect(
                content == expected,
                f"{row.request_id}: position {position} holds {content}, not {expected}",
            )
            digest = _mix(digest, content[2] if content is not None else 0)
        return digest, finite

    def _prompt_logprobs(
        self, row: _Row, start: int, scheduled: ScheduledRow
    ) -> list[TokenLogprobs]:
        targets = scheduled.prompt_targets or []
        expected = row.tokens[start + 1 : min(row.position + 1, row.prompt_len)]
        self._expect(targets == expected, f"{row.request_id}: wrong prompt targets at {start}")
        return [
            _logprobs(token, row.hashes[start + i], row.sampling.prompt_logprobs or 0)
            for i, token in enumerate(targets)
        ]

    def _sample(self, row: _Row, digest: int, output_index: int) -> int:
        seed = row.sampling.seed or 0
        token = _mix(_mix(digest, seed & _MASK), output_index) % self.info.vocab_size
        if output_index < row.sampling.min_tokens:
            while token in row.stop_token_ids:
                token = (token + 1) % self.info.vocab_size
        return token


def _logprobs(token: int, digest: int, num_top: int) -> TokenLogprobs:
    """The token itself first, then `num_top` alternatives by rank."""
    base = -(digest % 1000) / 1000
    return {token + rank: Logprob(base - rank, rank + 1) for rank in range(num_top + 1)}


class _Handle:
    """A launched step."""

    def __init__(self, runner: ContentRunner, plan: StepPlan, fails: bool) -> None:
        self._runner = runner
        self.plan = plan
        self.fails = fails

    def done(self) -> bool:
        """Whether `collect` would return without waiting: it always does the work itself."""
        return True

    def collect(self) -> StepResult:
        """Run the step."""
        return self._runner._collect(self)
