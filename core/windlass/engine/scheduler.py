"""Decides what each step computes: one token budget for prefill and decode.

Steps are planned before the results of earlier ones are known. That works because all that
planning needs is counted, not read: a sequence's next token may still be on the device, its
length is known all the same. What only the token can tell (a stop token) is seen late, and the
token computed beyond it is dropped.

Blocks and rows that come free are reused at once: steps take effect in launch order, so whoever
gets a block writes it after the last step that read it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import msgspec

from windlass.config import CacheConfig, ModelInfo, SchedulerConfig
from windlass.engine.block_manager import BlockManager
from windlass.engine.block_tables import BlockTables
from windlass.engine.outputs import EngineStats, SequenceOutput
from windlass.engine.request_limits import check_request
from windlass.engine.sequence import Sequence, SequenceStatus
from windlass.engine.sequence_table import SequenceTable
from windlass.errors import RequestError
from windlass.request import FinishReason, Request, RequestMetrics
from windlass.step import NewRow, ScheduledRow, StepPlan, StepResult

_ON_DEVICE: list[int] = []
"""A decode's token ids: its one input token is in the runner's request table."""


@dataclass(slots=True)
class _PlannedStep:
    """A step while it is planned: `sequences` runs beside `plan.rows`, `budget` is left."""

    plan: StepPlan
    sequences: list[Sequence]
    budget: int
    only: AbstractSet[str] | None
    preempted: bool = False


class Scheduler:
    """Owns every sequence from `add` to its end, the block manager and the rows.

    `add`, `abort`, `schedule` and `update` may be called in any order as long as every plan is
    updated in the order of planning, or all of them are given up by `give_up_steps`.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        cache: CacheConfig,
        info: ModelInfo,
        clock: Callable[[], float],
    ) -> None:
        self.blocks = BlockManager(info.num_blocks, info.block_size, cache.enable_prefix_caching)
        self.max_num_seqs = min(config.max_num_seqs, info.max_num_seqs)
        self._block_tables = BlockTables(self.blocks)
        self.sequences = SequenceTable(self.max_num_seqs, self._block_tables)
        self._block_size = info.block_size
        self._token_budget = config.token_budget(info.max_num_batched_tokens)
        self._running_limit = self.max_num_seqs
        self._by_priority = config.policy == "priority"
        self._info = info
        self._clock = clock
        self._in_flight: dict[int, list[Sequence]] = {}
        self._ended: list[SequenceOutput] = []
        self._arrivals = itertools.count()
        self._step_ids = itertools.count()
        self._counters = EngineStats()

    @property
    def has_work(self) -> bool:
        """Whether a sequence is unfinished or an end is not yet reported."""
        return bool(self.sequences.by_id or self._ended)

    def stats(self) -> EngineStats:
        """Return the gauges and counters that the scheduler knows."""
        blocks = self.blocks
        return msgspec.structs.replace(
            self._counters,
            num_running=len(self.sequences.running),
            num_waiting=len(self.sequences.waiting),
            num_waiting_tokens=self.sequences.waiting.num_tokens,
            num_blocks=blocks.capacity,
            num_free_blocks=blocks.num_free,
            kv_cache_usage=(blocks.capacity - blocks.num_free) / blocks.capacity,
        )

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            ContextLengthError: its prompt can never fit.
            RequestError: its id is in use, or a token id is not in the vocabulary.
        """
        max_outputs = self.check(request)
        priority = request.priority if self._by_priority else 0
        seq = Sequence(
            request=request,
            order=(priority, next(self._arrivals)),
            arrival_time=request.arrival_time or self._clock(),
            max_outputs=max_outputs,
        )
        self.sequences.add(seq)

    def check(self, request: Request) -> int:
        """Return how many tokens the request may generate; raises what `add` raises."""
        if request.request_id in self.sequences.by_id:
            raise RequestError(
                f"The request id {request.request_id!r} is in use.", param="request_id"
            )
        return check_request(request, self._info)

    def abort(self, request_ids: Iterable[str]) -> None:
        """End sequences wherever they stand; unknown and ended ids do not matter.

        Their ends are among `take_ended`.
        """
        for request_id in request_ids:
            seq = self.sequences.by_id.get(request_id)
            if seq is not None:
                output = SequenceOutput(request_id=request_id)
                self._ended.append(self._end(seq, output, "abort"))

    def fail(self, request_id: str, message: str) -> None:
        """End one unfinished sequence with an error; its end is among `take_ended`."""
        output = SequenceOutput(request_id=request_id, error=message)
        self._ended.append(self._end(self.sequences.by_id[request_id], output, "error"))

    def report_end(self, request_id: str, reason: FinishReason, error: str | None = None) -> None:
        """Put the end of a request that never came here among `take_ended`."""
        output = SequenceOutput(request_id=request_id, error=error)
        output.finish_reason, output.metrics = reason, RequestMetrics()
        self._ended.append(output)

    def take_ended(self) -> list[SequenceOutput]:
        """Return the ends that no step result brought: aborts and failures."""
        ended, self._ended = self._ended, []
        return ended

    def schedule(self, only: AbstractSet[str] | None = None) -> StepPlan | None:
        """Plan a step: decodes, then running prefills, then whoever waits and fits.

        `only` leaves every request that is not in it as it is. Returns None when nothing can be
        computed before a step in flight is known, or at all.
        """
        step = _PlannedStep(
            plan=StepPlan(step_id=next(self._step_ids), rows=[]),
            sequences=[],
            budget=self._token_budget,
            only=only,
        )
        for seq in self._schedule_decodes(step):
            if step.budget:
                self._schedule_prefill(step, seq)
        if not step.preempted:
            self._admit(step)
        if not step.plan.rows:
            return None
        step.plan.freed_rows = self.sequences.take_freed_rows()
        self._in_flight[step.plan.step_id] = step.sequences
        return step.plan

    def _schedule_decodes(self, step: _PlannedStep) -> list[Sequence]:
        """Add every running sequence that decodes; return those that still prefill.

        The first in order are served first, and whoever must give up blocks is last in order:
        so nobody loses blocks that this step already relies upon.
        """
        rows, sequences, only = step.plan.rows, step.sequences, step.only
        budget, block_size = step.budget, self._block_size
        running, prefills = SequenceStatus.RUNNING, []
        for seq in tuple(self.sequences.running):
            if seq.status is not running or not budget:
                break
            if only is not None and seq.request_id not in only:
                continue
            start = seq.num_computed_tokens
            if start < seq.num_prefill_tokens:
                prefills.append(seq)
                continue
            if seq.num_sampled >= seq.max_outputs:
                continue
            if start == len(seq.block_ids) * block_size and not self._append_block(step, seq):
                break
            output_index = seq.num_sampled
            rows.append(
                ScheduledRow(seq.row, seq.request_id, start, 1, _ON_DEVICE, True, output_index)
            )
            sequences.append(seq)
            seq.num_computed_tokens = start + 1
            seq.num_sampled = output_index + 1
            seq.num_in_flight_steps += 1
            budget -= 1
        step.budget = budget
        return prefills

    def _append_block(self, step: _PlannedStep, seq: Sequence) -> bool:
        """Give a decode its next block, at the cost of the last in order; False if that is it."""
        running = self.sequences.running
        while not self.blocks.num_free:
            step.preempted = True
            if len(running) == 1:
                self.fail(seq.request_id, "The KV cache has no block left for this request.")
                return False
            victim = running[-1]
            self.sequences.preempt(victim)
            victim.num_preemptions += 1
            self._counters.num_preemptions += 1
            if victim is seq:
                return False
        index = len(seq.block_ids)
        step.plan.new_blocks.append((seq.row, index, self._block_tables.append(seq)))
        return True

    def _schedule_prefill(self, step: _PlannedStep, seq: Sequence) -> None:
        """Add as much of a prefill as the budget allows; the last chunk samples."""
        start = seq.num_computed_tokens
        end = min(seq.num_prefill_tokens, start + step.budget)
        samples = end == seq.num_prefill_tokens
        targets = None
        if seq.prompt_logprobs is not None:
            targets = seq.token_ids[start + 1 : min(end + 1, seq.prompt_len)] or None
        step.plan.rows.append(
            ScheduledRow(
                seq.row,
                seq.request_id,
                start,
                end - start,
                seq.token_ids[start:end],
                samples,
                seq.num_sampled,
                targets,
            )
        )
        step.sequences.append(seq)
        step.budget -= end - start
        seq.num_computed_tokens = end
        seq.num_sampled += samples
        seq.num_in_flight_steps += 1
        self._block_tables.publish(seq)

    def _admit(self, step: _PlannedStep) -> None:
        """Start waiting sequences in order; the first that does not fit ends it: no skipping."""
        running = self.sequences.running
        while step.budget and len(running) < self._running_limit:
            seq = self.sequences.waiting.head(step.only)
            if seq is None or seq.num_in_flight_steps:
                return
            # Whoever was preempted comes back when everyone running has room to grow, twice as
            # much each time, so that it is not preempted again at once.
            room = len(running) * ((1 << seq.num_preemptions) - 1)
            if not self._block_tables.start(seq, room):
                return
            self.sequences.start(seq)
            self._add_row(step, seq)
            self._schedule_prefill(step, seq)

    def _add_row(self, step: _PlannedStep, seq: Sequence) -> None:
        """Tell the runner all about a sequence that starts."""
        if seq.scheduled_time is None:
            seq.scheduled_time = self._clock()
            seq.num_cached_tokens = seq.num_shared_tokens
            if self.blocks.enable_prefix_caching and seq.reads_cache:
                self._counters.prefix_cache_queries += seq.prompt_len
                self._counters.prefix_cache_hits += seq.num_shared_tokens
        step.plan.new_rows.append(
            NewRow(
                row=seq.row,
                request_id=seq.request_id,
                sampling=seq.request.sampling,
                position=seq.num_computed_tokens,
                token_ids=list(seq.token_ids),
                prompt_len=seq.prompt_len,
                block_ids=list(seq.block_ids),
                stop_token_ids=tuple(seq.stop_reasons),
            )
        )

    def limit_running(self, limit: int) -> None:
        """Let at most `limit` sequences run (at least 1, at most `max_num_seqs`)."""
        self._running_limit = max(1, min(limit, self.max_num_seqs))
        for seq in self.sequences.running[self._running_limit :]:
            self.sequences.preempt(seq)

    def preempt_others(self, request_ids: AbstractSet[str]) -> bool:
        """Preempt every running sequence that is not named; whether there was one."""
        others = [seq for seq in self.sequences.running if seq.request_id not in request_ids]
        for seq in others:
            self.sequences.preempt(seq)
        return bool(others)

    def give_up_steps(self) -> None:
        """Forget every step in flight, every row and all KV: the runner was reset.

        Who ran waits again with the tokens that are known.
        """
        self._in_flight.clear()
        for seq in self.sequences.by_id.values():
            seq.num_in_flight_steps = 0
            seq.discard_in_flight()
        for seq in tuple(self.sequences.running):
            self.sequences.preempt(seq)
        self.blocks.reset_prefix_cache()
        self.sequences.take_freed_rows()

    def update(self, plan: StepPlan, result: StepResult) -> list[SequenceOutput]:
        """Take in what a step produced, in the order of planning; return what is new.

        Results of sequences that have ended since, or whose step was discarded, are dropped.
        """
        now, outputs, finished = self._clock(), [], SequenceStatus.FINISHED
        tokens, logprobs = result.tokens, result.logprobs
        sequences = self._in_flight.pop(plan.step_id)
        for row, seq in zip(plan.rows, sequences, strict=True):
            seq.num_in_flight_steps -= 1
            if seq.status is finished:
                continue
            if seq.num_stale_steps:
                seq.num_stale_steps -= 1
                continue
            token = tokens.get(row.request_id)
            output: SequenceOutput | None
            if row.token_ids or token is None:
                output = self._take_prefill(row, seq, result, now)
            else:
                output = self._take_token(seq, token)
            if output is not None:
                if logprobs and row.request_id in logprobs:
                    output.logprobs = [logprobs[row.request_id]]
                outputs.append(output)
        return outputs

    def _take_token(self, seq: Sequence, token: int) -> SequenceOutput:
        """Append a sampled token and see whether it ends the sequence."""
        token_ids = seq.token_ids
        token_ids.append(token)
        self._counters.generation_tokens += 1
        output = SequenceOutput(request_id=seq.request_id, new_token_ids=[token])
        num_known = len(token_ids)
        num_outputs = num_known - seq.prompt_len
        if token in seq.stop_reasons and num_outputs > seq.min_outputs:
            output.stop_reason = seq.stop_reasons[token]
            return self._end(seq, output, "stop")
        if num_outputs >= seq.max_outputs:
            return self._end(seq, output, "length")
        if not num_known % self._block_size and seq.status is SequenceStatus.RUNNING:
            self._block_tables.publish(seq)
        return output

    def _take_prefill(
        self, row: ScheduledRow, seq: Sequence, result: StepResult, now: float
    ) -> SequenceOutput | None:
        """Take in a prefill chunk's part of a result, or a row that brought no token."""
        if row.prompt_targets is not None and seq.prompt_logprobs is not None:
            seq.prompt_logprobs += result.prompt_logprobs.get(seq.request_id, ())
        token = result.tokens.get(seq.request_id)
        if token is None:
            failed = row.samples or seq.request_id in result.errors
            return self._take_error(row, seq, result) if failed else None
        if seq.first_token_time is not None:
            return self._take_token(seq, token)
        seq.first_token_time = now
        self._counters.prompt_tokens += seq.prompt_len
        output = self._take_token(seq, token)
        output.num_cached_tokens = seq.num_cached_tokens
        output.prompt_logprobs, seq.prompt_logprobs = seq.prompt_logprobs, None
        return output

    def _take_error(
        self, row: ScheduledRow, seq: Sequence, result: StepResult
    ) -> SequenceOutput | None:
        """End a sequence whose numbers are not finite, and let nobody share its blocks.

        The fault may lie in cached blocks that another sequence filled: when the first numbers
        after reading such blocks are bad, the sequence is computed again without the cache, once.
        """
        self._block_tables.disown(seq)
        if seq.num_shared_tokens and not row.is_decode and not seq.distrusts_cache:
            seq.distrusts_cache = True
            seq.discard_in_flight()
            if seq.status is SequenceStatus.RUNNING:
                self.sequences.preempt(seq)
            return None
        message = result.errors.get(seq.request_id, "The step brought no token for this request.")
        output = SequenceOutput(request_id=seq.request_id, error=message)
        return self._end(seq, output, "error")

    def _end(self, seq: Sequence, output: SequenceOutput, reason: FinishReason) -> SequenceOutput:
        """End a sequence, complete its last output and return it."""
        self.sequences.end(seq)
        output.finish_reason = reason
        output.metrics = seq.metrics(self._clock())
        return output
