"""What happens when a step raises: everybody is computed again, the guilty request excepted.

A failed step leaves the runner's table and the KV cache in doubt. So all steps in flight are
given up, the runner is reset and every running sequence waits again with the tokens it had. Then
the failed step's requests are tried again, one step at a time: first all of them, for the fault
may have passed; then halves, until a request fails alone. That one ends with an error. It takes
about log2(batch) + 2 steps more than the recomputation itself.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from windlass.engine.outputs import SequenceOutput
from windlass.engine.scheduler import Scheduler
from windlass.errors import EngineDeadError
from windlass.step import ModelRunner, StepHandle, StepPlan

logger = logging.getLogger(__name__)

_STEPS_BEFORE_REGROWTH = 64
"""Good steps after which a batch that was made smaller may double again."""


@dataclass(slots=True)
class _Failure:
    """A step that raised, and the requests that were in it."""

    request_ids: list[str]
    error: Exception


class StepRecovery:
    """Contains a failed step between one scheduler and one runner."""

    def __init__(self, scheduler: Scheduler, runner: ModelRunner) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._limit = scheduler.max_num_seqs
        self._good_steps = 0

    def step_succeeded(self) -> None:
        """Count a good step: a batch that was made smaller grows again after enough of them."""
        if self._limit < self._scheduler.max_num_seqs:
            self._good_steps += 1
            if self._good_steps >= _STEPS_BEFORE_REGROWTH:
                self._limit_running(2 * self._limit)

    def recover(
        self, plan: StepPlan, error: Exception, in_flight: Iterable[StepHandle]
    ) -> list[SequenceOutput]:
        """Bring the engine back after `plan` raised and find out whose fault it was.

        `in_flight` are the steps launched after it. Returns the news of the steps tried.

        Raises:
            EngineDeadError: the runner cannot be reset, or says that its device is gone.
        """
        for handle in in_flight:
            # They ran on what the failed step left behind: neither result nor error counts.
            with contextlib.suppress(Exception):
                handle.collect()
        outputs: list[SequenceOutput] = []
        unfinished = self._scheduler.sequences.by_id
        suspects = self._reset(plan, error).request_ids
        self._isolate([name for name in suspects if name in unfinished], outputs)
        return outputs + self._scheduler.take_ended()

    def _isolate(self, suspects: list[str], outputs: list[SequenceOutput]) -> None:
        failure = self._try(suspects, outputs)
        if failure is None:
            logger.warning("The step's requests pass now: nobody is to blame")
            return
        suspects = together = failure.request_ids
        while len(suspects) > 1:
            half = suspects[: len(suspects) // 2]
            failure = self._try(half, outputs)
            suspects = suspects[len(half) :] if failure is None else failure.request_ids
        if failure is None:
            # Found by exclusion, it has not failed alone yet.
            failure = self._try(suspects, outputs)
        if failure is None:
            # They fail together only, for instance for want of memory: run fewer at once.
            self._limit_running(len(together) // 2)
        else:
            logger.error("The request %s alone makes a step fail", suspects[0])
            kind = type(failure.error).__name__
            self._scheduler.fail(suspects[0], f"This request made a model step fail ({kind}).")

    def _try(self, request_ids: list[str], outputs: list[SequenceOutput]) -> _Failure | None:
        """Compute these requests alone until each has sampled a token; None when that worked."""
        untried = set(request_ids)
        while untried:
            plan = self._scheduler.schedule(only=untried)
            if plan is None:
                if self._scheduler.preempt_others(untried):
                    continue
                break
            try:
                result = self._runner.launch(plan).collect()
            except EngineDeadError:
                raise
            except Exception as error:  # noqa: BLE001 - logged and blamed on a request
                return self._reset(plan, error)
            outputs += self._scheduler.update(plan, result)
            untried.difference_update(row.request_id for row in plan.rows if row.samples)
        return None

    def _reset(self, plan: StepPlan, error: Exception) -> _Failure:
        request_ids = [row.request_id for row in plan.rows]
        message = "Step %d of %d requests failed"
        logger.error(message, plan.step_id, len(request_ids), exc_info=error)
        try:
            self._runner.reset()
        except Exception as reset_error:
            raise EngineDeadError("The model runner failed and cannot be reset.") from reset_error
        self._scheduler.give_up_steps()
        return _Failure(request_ids, error)

    def _limit_running(self, limit: int) -> None:
        self._limit = max(1, min(limit, self._scheduler.max_num_seqs))
        self._good_steps = 0
        logger.warning("At most %d requests run at once from now on", self._limit)
        self._scheduler.limit_running(self._limit)
