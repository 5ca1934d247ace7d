"""The step loop: plan and launch one step ahead, then collect the oldest."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from windlass.config import EngineConfig, ModelInfo
from windlass.engine.outputs import EngineStats, SequenceOutput
from windlass.engine.preparation import Preparation
from windlass.engine.recovery import StepRecovery
from windlass.engine.scheduler import Scheduler
from windlass.engine.step_sizes import StepSizes
from windlass.engine.view import EngineView, take_view
from windlass.errors import EngineDeadError, RequestError
from windlass.request import Request
from windlass.step import ModelRunner, StepHandle, StepPlan, StepResult

PIPELINE_DEPTH = 2
"""Steps in flight at most: while the device runs one, the host plans the next."""


class EngineCore:
    """One engine on one model runner, driven by whoever calls `step` while there is work.

    Not safe for use by several threads. A step that raises ends only the request that makes it
    raise; what cannot be contained (the runner cannot be reset, or says that its device is gone)
    is raised from `step` as `EngineDeadError`.
    """

    def __init__(
        self,
        config: EngineConfig,
        info: ModelInfo,
        runner: ModelRunner,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scheduler = Scheduler(config.scheduler, config.cache, info, clock)
        self._runner = runner
        self._preparation = Preparation(runner)
        self._clock = clock
        self._recovery = StepRecovery(self.scheduler, runner)
        self._in_flight: deque[tuple[StepPlan, StepHandle]] = deque()
        self._num_steps = 0
        self._last_step_end = clock()
        self._last_step_tokens = 0
        self._step_sizes = StepSizes()

    @property
    def has_work(self) -> bool:
        """Whether `step` would do something."""
        return bool(self._in_flight or self._preparation) or self.scheduler.has_work

    def add_request(self, request: Request) -> None:
        """Queue a request; raises RequestError when it is wrong or can never fit.

        What the runner has to prepare first, such as a grammar, keeps nobody else waiting.
        """
        self.scheduler.check(request)
        if request.request_id in self._preparation:
            raise RequestError(
                f"The request id {request.request_id!r} is in use.", param="request_id"
            )
        if not self._preparation.takes(request):
            self.scheduler.add(request)

    def abort(self, request_ids: Iterable[str]) -> None:
        """End requests in any state; the next `step` reports them with `finish_reason="abort"`.

        Unknown and ended ids do not matter.
        """
        request_ids = list(request_ids)
        for request_id in self._preparation.drop(request_ids):
            self.scheduler.report_end(request_id, "abort")
        self.scheduler.abort(request_ids)

    def step(self) -> list[SequenceOutput]:
        """Launch the next step, then collect the oldest when the pipeline is full or dry.

        Returns the news of the collected step, and of requests that ended otherwise; the list
        is empty while the pipeline fills.
        """
        if self._preparation:
            self._admit_prepared()
        plan = self.scheduler.schedule()
        launched = plan is None or self._launch(plan)
        outputs = self.scheduler.take_ended()
        if self._in_flight and (plan is None or len(self._in_flight) >= PIPELINE_DEPTH):
            outputs += self._collect()
        while self._in_flight and not launched:
            outputs += self._collect()
        return outputs

    def _admit_prepared(self) -> None:
        idle = not self._in_flight and not self.scheduler.has_work
        for request, problem in self._preparation.ready(idle=idle):
            if problem:
                self.scheduler.report_end(request.request_id, "error", problem)
            else:
                self.scheduler.add(request)

    def stats(self) -> EngineStats:
        """Return gauges and counters."""
        return msgspec.structs.replace(
            self.scheduler.stats(),
            num_steps=self._num_steps,
            last_step_end=self._last_step_end,
            last_step_tokens=self._last_step_tokens,
            step_tokens=self._step_sizes.tokens,
            step_sizes=list(self._step_sizes.counts),
        )

    def view(self) -> EngineView:
        """Return what stands where now: sequences and KV blocks, bounded in size."""
        return take_view(self.scheduler, self.stats(), self._clock())

    def reset_prefix_cache(self) -> bool:
        """Forget all cached prefixes; running sequences keep their blocks. Always possible."""
        self.scheduler.blocks.reset_prefix_cache()
        return True

    def _launch(self, plan: StepPlan) -> bool:
        """Whether the step was launched; if not, its error comes with `collect`, in its turn."""
        try:
            handle = self._runner.launch(plan)
        except EngineDeadError:
            raise
        except Exception as error:  # noqa: BLE001 - raised again by `collect`
            self._in_flight.append((plan, _FailedLaunch(error)))
            return False
        self._in_flight.append((plan, handle))
        return True

    def _collect(self) -> list[SequenceOutput]:
        plan, handle = self._in_flight.popleft()
        try:
            result = handle.collect()
        except EngineDeadError:
            raise
        except Exception as error:  # noqa: BLE001 - logged and contained by recovery
            in_flight = [later for _, later in self._in_flight]
            self._in_flight.clear()
            outputs = self._recovery.recover(plan, error, in_flight)
        else:
            outputs = self.scheduler.update(plan, result)
            self._recovery.step_succeeded()
        self._num_steps += 1
        self._last_step_end = self._clock()
        self._last_step_tokens = plan.num_tokens
        self._step_sizes.add(plan.num_tokens)
        return outputs


class _FailedLaunch:
    """Stands in the pipeline for a step that could not be launched."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def done(self) -> bool:
        """Whether `collect` would return without waiting."""
        return True

    def collect(self) -> StepResult:
        """Raise what `launch` raised."""
        raise self._error
