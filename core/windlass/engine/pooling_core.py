"""The step loop of a model that embeds or scores: every text is computed once, whole.

There is no KV cache and nothing to preempt: texts are taken in their order up to the token budget,
and computed in padded batches of similar length.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from windlass.config import EngineConfig, ModelInfo
from windlass.engine.core import PIPELINE_DEPTH
from windlass.engine.outputs import EngineStats, SequenceOutput
from windlass.engine.pooling_batches import similar_lengths
from windlass.engine.request_limits import check_pooling_request
from windlass.engine.sequence import Sequence, SequenceStatus
from windlass.engine.step_sizes import StepSizes
from windlass.engine.view import EngineView, list_sequences
from windlass.engine.waiting_queue import WaitingQueue
from windlass.errors import EngineDeadError, RequestError
from windlass.pooling import PooledBatch, PoolingRunner
from windlass.request import FinishReason, Request

logger = logging.getLogger(__name__)

_NOT_FINITE = "The model's numbers for this text are not finite."


class PoolingCore:
    """A `SteppingEngine` on a pooling runner, driven by whoever calls `step` while there is work.

    Not safe for use by several threads. A batch that raises is tried again in halves until the
    text that makes it raise is alone; that one ends with an error.
    """

    def __init__(
        self,
        config: EngineConfig,
        info: ModelInfo,
        runner: PoolingRunner,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._info = info
        self._clock = clock
        self._token_budget = config.scheduler.token_budget(info.max_num_batched_tokens)
        self._max_num_seqs = config.scheduler.max_num_seqs
        self._by_priority = config.scheduler.policy == "priority"
        self._arrivals = itertools.count()
        self._unfinished: dict[str, Sequence] = {}
        self._waiting = WaitingQueue()
        self._planned: deque[list[Sequence]] = deque()
        self._in_flight: deque[tuple[list[Sequence], PooledBatch]] = deque()
        self._ended: list[SequenceOutput] = []
        self._counters = EngineStats(last_step_end=clock())
        self._step_sizes = StepSizes()

    @property
    def has_work(self) -> bool:
        """Whether `step` would do something."""
        return bool(self._unfinished or self._in_flight or self._ended)

    def add_request(self, request: Request) -> None:
        """Queue a text; raises RequestError when it is wrong or too long."""
        if request.request_id in self._unfinished:
            raise RequestError(
                f"The request id {request.request_id!r} is in use.", param="request_id"
            )
        check_pooling_request(request, self._info)
        seq = Sequence(
            request=request,
            order=(request.priority if self._by_priority else 0, next(self._arrivals)),
            arrival_time=request.arrival_time or self._clock(),
            max_outputs=0,
        )
        self._unfinished[seq.request_id] = seq
        self._waiting.add(seq)

    def abort(self, request_ids: Iterable[str]) -> None:
        """End texts in any state; the next `step` reports them with `finish_reason="abort"`.

        What runs is computed to its end and then dropped. Unknown and ended ids do not matter.
        """
        for request_id in request_ids:
            seq = self._unfinished.get(request_id)
            if seq is not None:
                if seq.status is SequenceStatus.WAITING:
                    self._waiting.remove(seq)
                self._ended.append(self._end(seq, "abort"))

    def step(self) -> list[SequenceOutput]:
        """Launch the next batch, then collect the oldest when enough are in flight.

        Returns the news of the collected batch, and of texts that ended otherwise.
        """
        launched = self._launch_next()
        outputs, self._ended = self._ended, []
        if self._in_flight and (not launched or len(self._in_flight) >= PIPELINE_DEPTH):
            outputs += self._collect(*self._in_flight.popleft())
        return outputs

    def stats(self) -> EngineStats:
        """Return gauges and counters."""
        return msgspec.structs.replace(
            self._counters,
            num_running=len(self._unfinished) - len(self._waiting),
            num_waiting=len(self._waiting),
            num_waiting_tokens=self._waiting.num_tokens,
            step_tokens=self._step_sizes.tokens,
            step_sizes=list(self._step_sizes.counts),
        )

    def view(self) -> EngineView:
        """Return what runs and waits; there are no blocks."""
        running = [s for s in self._unfinished.values() if s.status is SequenceStatus.RUNNING]
        listed = list_sequences(running, self._waiting, self._clock())
        return EngineView(
            stats=self.stats(),
            block_size=0,
            num_cached_blocks=0,
            blocks=[],
            sequences=listed,
            sequences_left_out=len(self._unfinished) - len(listed),
        )

    def reset_prefix_cache(self) -> bool:
        """There is none."""
        return True

    def _launch_next(self) -> bool:
        """Launch a batch whose texts are still wanted; whether there was one."""
        while self._planned or self._plan():
            batch = [s for s in self._planned.popleft() if s.status is SequenceStatus.RUNNING]
            if not batch:
                continue
            try:
                handle = self._launch(batch)
            except EngineDeadError:
                raise
            except Exception as error:  # noqa: BLE001 - logged and contained by `_isolate`
                self._ended += self._isolate(batch, error)
            else:
                self._in_flight.append((batch, handle))
                return True
        return False

    def _plan(self) -> bool:
        """Take who is next, up to the token budget, and form batches of them."""
        chosen: list[Sequence] = []
        tokens = 0
        while len(chosen) < self._max_num_seqs:
            seq = self._waiting.head()
            if seq is None or (chosen and tokens + seq.prompt_len > self._token_budget):
                break
            self._waiting.remove(seq)
            seq.status = SequenceStatus.RUNNING
            tokens += seq.prompt_len
            chosen.append(seq)
        self._planned.extend(similar_lengths(chosen, self._token_budget))
        return bool(chosen)

    def _launch(self, batch: list[Sequence]) -> PooledBatch:
        now = self._clock()
        for seq in batch:
            seq.scheduled_time = seq.scheduled_time or now
        return self._runner.launch([seq.request for seq in batch])

    def _collect(self, batch: list[Sequence], handle: PooledBatch) -> list[SequenceOutput]:
        try:
            vectors = handle.collect()
        except EngineDeadError:
            raise
        except Exception as error:  # noqa: BLE001 - logged and contained by `_isolate`
            return self._isolate(batch, error)
        counters = self._counters
        counters.num_steps += 1
        counters.last_step_end = self._clock()
        counters.last_step_tokens = sum(seq.prompt_len for seq in batch)
        counters.prompt_tokens += counters.last_step_tokens
        self._step_sizes.add(counters.last_step_tokens)
        return [
            self._end(seq, "error", error=_NOT_FINITE)
            if vector is None
            else self._end(seq, "stop", pooled=vector)
            for seq, vector in zip(batch, vectors, strict=True)
            if seq.status is SequenceStatus.RUNNING
        ]

    def _isolate(self, batch: list[Sequence], error: Exception) -> list[SequenceOutput]:
        """Find out whose fault a failed batch is: halves are tried until a text fails alone.

        Raises:
            EngineDeadError: the device does not work any more.
        """
        logger.error("A batch of %d texts failed", len(batch), exc_info=error)
        try:
            self._runner.reset()
        except Exception as reset_error:
            raise EngineDeadError("The model runner failed and cannot be reset.") from reset_error
        batch = [seq for seq in batch if seq.status is SequenceStatus.RUNNING]
        if len(batch) == 1:
            message = f"This text made a model step fail ({type(error).__name__})."
            self._counters.num_steps += 1
            return [self._end(batch[0], "error", error=message)]
        middle = len(batch) // 2
        outputs: list[SequenceOutput] = []
        for half in filter(None, (batch[:middle], batch[middle:])):
            try:
                handle = self._launch(half)
            except EngineDeadError:
                raise
            except Exception as again:  # noqa: BLE001 - it is what is looked for
                outputs += self._isolate(half, again)
            else:
                outputs += self._collect(half, handle)
        return outputs

    def _end(
        self,
        seq: Sequence,
        reason: FinishReason,
        *,
        error: str | None = None,
        pooled: bytes | None = None,
    ) -> SequenceOutput:
        seq.status = SequenceStatus.FINISHED
        del self._unfinished[seq.request_id]
        return SequenceOutput(
            request_id=seq.request_id,
            finish_reason=reason,
            error=error,
            pooled=pooled,
            metrics=seq.metrics(self._clock()),
        )
