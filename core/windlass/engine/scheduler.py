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
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from operator import attrgetter

import msgspec

from windlass.config import CacheConfig, ModelInfo, SchedulerConfig
from windlass.engine.block_manager import BlockManager
from windlass.engine.block_tables import BlockTables
from windlass.engine.outputs import EngineStats, SequenceOutput
from windlass.engine.request_limits import check_request
from windlass.engine.sequence import Sequence, SequenceStatus
from windlass.engine.waiting_queue import WaitingQueue
from windlass.errors import RequestError
from windlass.request import FinishReason, Request
from windlass.step import NewRow, ScheduledRow, StepPlan, StepResult

_ON_DEVICE: list[int] = []
"""A decode's token ids: its one input token is in the runner's request table."""

_order = attrgetter("order")


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
        self._tables = BlockTables(self.blocks)
        self.max_num_seqs = min(config.max_num_seqs, info.max_num_seqs)
        self._token_budget = config.max_num_batched_tokens
        self._by_priority = config.policy == "priority"
        self._info = info
        self._clock = clock
        self._sequences: dict[str, Sequence] = {}
        self._waiting = WaitingQueue()
        self._running: list[Sequence] = []
        self._running_limit = self.max_num_seqs
        self._in_flight: dict[int, list[Sequence]] = {}
        self._free_rows = list(range(self.max_num_seqs - 1, -1, -1))
        self._freed_rows: list[int] = []
        self._ended: list[SequenceOutput] = []
        self._arrivals = itertools.count()
        self._step_ids = itertools.count()
        self._counters = EngineStats()

    @property
    def has_work(self) -> bool:
        """Whether a sequence is unfinished or an end is not yet reported."""
        return bool(self._sequences or self._ended)

    @property
    def num_running(self) -> int:
        """Sequences that hold a row."""
        return len(self._running)

    def stats(self) -> EngineStats:
        """Return the gauges and counters that the scheduler knows."""
        blocks = self.blocks
        return msgspec.structs.replace(
            self._counters,
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            num_waiting_tokens=self._waiting.num_tokens,
            num_blocks=blocks.capacity,
            num_free_blocks=blocks.num_free,
            kv_cache_usage=1 - blocks.num_free / blocks.capacity,
        )

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            ContextLengthError: its prompt can never fit.
            RequestError: its id is in use, or a token id is not in the vocabulary.
        """
        if request.request_id in self._sequences:
            raise RequestError(
                f"The request id {request.request_id!r} is in use.", param="request_id"
            )
        max_outputs = check_request(request, self._info)
        priority = request.priority if self._by_priority else 0
        seq = Sequence(
            request=request,
            order=(priority, next(self._arrivals)),
            arrival_time=request.arrival_time or self._clock(),
            max_outputs=max_outputs,
        )
        self._sequences[request.request_id] = seq
        self._waiting.add(seq)

    def abort(self, request_ids: Iterable[str]) -> None:
        """End sequences wherever they stand; unknown and ended ids do not matter.

        Their ends are among `take_ended`.
        """
        for request_id in request_ids:
            seq = self._sequences.get(request_id)
            if seq is not None:
                output = SequenceOutput(request_id=request_id)
                self._ended.append(self._end(seq, output, "abort"))

    def fail(self, request_id: str, message: str) -> None:
        """End one unfinished sequence with an error; its end is among `take_ended`."""
        output = SequenceOutput(request_id=request_id, error=message)
        self._ended.append(self._end(self._sequences[request_id], output, "error"))

    def take_ended(self) -> list[SequenceOutput]:
        """Return the ends that no step result brought: aborts and failures."""
        ended, self._ended = self._ended, []
        return ended

    def knows(self, request_id: str) -> bool:
        """Whether a request is unfinished."""
        return request_id in self._sequences

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
        step.plan.freed_rows, self._freed_rows = self._freed_rows, []
        self._in_flight[step.plan.step_id] = step.sequences
        return step.plan

    def _schedule_decodes(self, step: _PlannedStep) -> list[Sequence]:
        """Add every running sequence that decodes; return those that still prefill.

        The first in order are served first, and whoever must give up blocks is last in order:
        so nobody loses blocks that this step already relies upon.
        """
        rows, sequences, only = step.plan.rows, step.sequences, step.only
        budget, block_size = step.budget, self.blocks.block_size
        running, prefills = SequenceStatus.RUNNING, []
        for seq in tuple(self._running):
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
        while not self.blocks.num_free:
            step.preempted = True
            victim = self._running[-1]
            if len(self._running) == 1:
                self.fail(seq.request_id, "The KV cache has no block left for this request.")
                return False
            self.preempt(victim)
            victim.num_preemptions += 1
            self._counters.num_preemptions += 1
            if victim is seq:
                return False
        index = len(seq.block_ids)
        step.plan.new_blocks.append((seq.row, index, self._tables.append(seq)))
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
        self._tables.publish(seq)

    def _admit(self, step: _PlannedStep) -> None:
        """Start waiting sequences in order; the first that does not fit ends it: no skipping."""
        while step.budget and len(self._running) < self._running_limit:
            seq = self._waiting.head(step.only)
            if seq is None or seq.num_in_flight_steps:
                return
            # Whoever was preempted comes back when everyone running has room to grow, twice as
            # much each time, so that it is not preempted again at once.
            room = len(self._running) * ((1 << seq.num_preemptions) - 1)
            if not self._tables.start(seq, room):
                return
            self._waiting.remove(seq)
            self._enter(step, seq)
            self._schedule_prefill(step, seq)

    def _enter(self, step: _PlannedStep, seq: Sequence) -> None:
        """Give a sequence that has its blocks a row."""
        insort(self._running, seq, key=_order)
        seq.status = SequenceStatus.RUNNING
        seq.row = self._free_rows.pop()
        if seq.scheduled_time is None:
            seq.scheduled_time = self._clock()
            seq.num_cached_tokens = seq.num_shared_tokens
            if self.blocks.enable_prefix_caching:
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

    def preempt(self, seq: Sequence) -> None:
        """Take row and blocks from a running sequence; it waits again and is recomputed.

        A token of it that is in flight is valid and stays. A prefill that was cut short has none
        and starts again, so what its chunks still bring is dropped.
        """
        if seq.is_prefilling:
            seq.discard_in_flight()
        self._withdraw(seq)
        seq.status = SequenceStatus.WAITING
        self._waiting.add(seq)

    def limit_running(self, limit: int) -> None:
        """Let at most `limit` sequences run (at least 1, at most `max_num_seqs`)."""
        self._running_limit = max(1, min(limit, self.max_num_seqs))
        while len(self._running) > self._running_limit:
            self.preempt(self._running[-1])

    def preempt_others(self, request_ids: AbstractSet[str]) -> bool:
        """Preempt every running sequence that is not named; whether there was one."""
        others = [seq for seq in self._running if seq.request_id not in request_ids]
        for seq in others:
            self.preempt(seq)
        return bool(others)

    def give_up_steps(self) -> None:
        """Forget every step in flight, every row and all KV: the runner was reset.

        Who ran waits again with the tokens that are known.
        """
        self._in_flight.clear()
        for seq in self._sequences.values():
            seq.num_in_flight_steps = 0
            seq.discard_in_flight()
        while self._running:
            self.preempt(self._running[-1])
        self.blocks.reset_prefix_cache()
        self._freed_rows.clear()

    def _withdraw(self, seq: Sequence) -> None:
        """Take a sequence off the running list with its row and blocks, or off the queue."""
        if seq.status is SequenceStatus.WAITING:
            self._waiting.remove(seq)
            return
        del self._running[bisect_left(self._running, seq.order, key=_order)]
        self._tables.release(seq)
        self._free_rows.append(seq.row)
        self._freed_rows.append(seq.row)

    def update(self, plan: StepPlan, result: StepResult) -> list[SequenceOutput]:
        """Take in what a step produced, in the order of planning; return what is new.

        Results of sequences that have ended since, or whose step was discarded, are dropped.
        """
        now, outputs, finished = self._clock(), [], SequenceStatus.FINISHED
        sequences = self._in_flight.pop(plan.step_id)
        for row, seq in zip(plan.rows, sequences, strict=True):
            seq.num_in_flight_steps -= 1
            if seq.status is finished:
                continue
            if seq.num_stale_steps:
                seq.num_stale_steps -= 1
                continue
            output = self._take_result(row, seq, result, now)
            if output is not None:
                outputs.append(output)
        return outputs

    def _take_result(
        self, row: ScheduledRow, seq: Sequence, result: StepResult, now: float
    ) -> SequenceOutput | None:
        request_id = row.request_id
        if row.prompt_targets is not None and seq.prompt_logprobs is not None:
            seq.prompt_logprobs += result.prompt_logprobs.get(request_id, ())
        token = result.tokens.get(request_id)
        if token is None:
            if row.samples or request_id in result.errors:
                return self._take_error(row, seq, result)
            return None
        seq.token_ids.append(token)
        self._counters.generation_tokens += 1
        num_known = len(seq.token_ids)
        output = SequenceOutput(request_id=request_id, new_token_ids=[token])
        if result.logprobs and request_id in result.logprobs:
            output.logprobs = [result.logprobs[request_id]]
        if seq.first_token_time is None:
            self._add_first_token(seq, output, now)
        num_outputs = num_known - seq.prompt_len
        if token in seq.stop_reasons and num_outputs > seq.min_outputs:
            output.stop_reason = seq.stop_reasons[token]
            return self._end(seq, output, "stop")
        if num_outputs >= seq.max_outputs:
            return self._end(seq, output, "length")
        if num_known % self.blocks.block_size == 0 and seq.status is SequenceStatus.RUNNING:
            self._tables.publish(seq)
        return output

    def _add_first_token(self, seq: Sequence, output: SequenceOutput, now: float) -> None:
        """Add what is told once, with the first token."""
        seq.first_token_time = now
        output.num_cached_tokens = seq.num_cached_tokens
        output.prompt_logprobs, seq.prompt_logprobs = seq.prompt_logprobs, None
        self._counters.prompt_tokens += seq.prompt_len

    def _take_error(
        self, row: ScheduledRow, seq: Sequence, result: StepResult
    ) -> SequenceOutput | None:
        """End a sequence whose numbers are not finite, and let nobody share its blocks.

        The fault may lie in cached blocks that another sequence filled: when the first numbers
        after reading such blocks are bad, the sequence is computed again without the cache, once.
        """
        self._tables.disown(seq)
        if seq.num_shared_tokens and not row.is_decode and not seq.distrusts_cache:
            seq.distrusts_cache = True
            seq.discard_in_flight()
            if seq.status is SequenceStatus.RUNNING:
                self.preempt(seq)
            return None
        message = result.errors.get(seq.request_id, "The step brought no token for this request.")
        output = SequenceOutput(request_id=seq.request_id, error=message)
        return self._end(seq, output, "error")

    def _end(self, seq: Sequence, output: SequenceOutput, reason: FinishReason) -> SequenceOutput:
        """End a sequence, complete its last output and return it."""
        self._withdraw(seq)
        seq.status = SequenceStatus.FINISHED
        del self._sequences[seq.request_id]
        output.finish_reason = reason
        output.metrics = seq.metrics(self._clock())
        return output
