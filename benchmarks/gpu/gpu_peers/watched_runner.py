"""A model runner that is watched: when steps are launched and awaited, and what they run."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from gpu_peers.trace import STEP_NAME, StepTrace, read_trace
from windlass.config import ModelInfo
from windlass.step import ModelRunner, StepHandle, StepPlan, StepResult


@dataclass
class Launch:
    """A step as the host saw it: seconds on the performance counter, and seconds waited for it."""

    start: float
    end: float
    rows: int
    tokens: int
    waited: float = 0.0


@dataclass(frozen=True)
class HostTimes:
    """Of steps one after another, each in seconds: from launch to launch, in `launch` itself, and
    everything but waiting for the device."""

    period: float
    launch: float
    busy: float


class WatchedRunner:
    """Passes everything on to a runner."""

    def __init__(self, runner: ModelRunner) -> None:
        self.launches: list[Launch] = []
        self._runner = runner
        self._profiler: torch.profiler.profile | None = None
        self._wanted = self._left = 0
        self._decodes = True
        self.trace: StepTrace | None = None

    def profile(self, steps: int, *, decodes: bool) -> None:
        """Profile that many of the next steps, of pure decodes or of any other; see `trace`."""
        self._wanted, self._decodes, self.trace = steps, decodes, None

    def load(self, progress: Callable[[str, float], None] | None = None) -> ModelInfo:
        """Load."""
        return self._runner.load(progress)

    def launch(self, plan: StepPlan) -> StepHandle:
        """Launch, in the profiler where that was asked for."""
        rows, tokens = len(plan.rows), plan.num_tokens
        if self._wanted and (tokens == rows) == self._decodes:
            self._profiler = torch.profiler.profile(
                activities=torch.profiler.supported_activities()  # type: ignore[no-untyped-call]
            )
            self._profiler.start()
            self._left, self._wanted = self._wanted, 0
        start = time.perf_counter()
        if self._profiler is None:
            handle = self._runner.launch(plan)
        else:
            with torch.profiler.record_function(STEP_NAME):
                handle = self._runner.launch(plan)
        launch = Launch(start, time.perf_counter(), rows, tokens)
        self.launches.append(launch)
        if self._profiler is not None:
            self._left -= 1
            if not self._left:
                self._stop(handle)
        return _WatchedHandle(handle, launch)

    def _stop(self, handle: StepHandle) -> None:
        """The device does the steps in their order: with the last one, all are done."""
        while not handle.done():
            time.sleep(0)
        profiler, self._profiler = self._profiler, None
        assert profiler is not None
        profiler.stop()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(path))
            self.trace = read_trace(json.loads(path.read_text())["traceEvents"])

    def reset(self) -> None:
        """Reset."""
        self._runner.reset()

    def close(self) -> None:
        """Close."""
        self._runner.close()

    def host_times(self, rows: int, count: int) -> HostTimes | None:
        """Of the last `count` steps but the very last that decoded `rows` requests; None where
        there are too few."""
        steps = [step for step in self.launches if step.rows == step.tokens == rows][-count:-1]
        if len(steps) < 4:
            return None
        number = len(steps) - 1
        period = (steps[-1].start - steps[0].start) / number
        return HostTimes(
            period=period,
            launch=sum(step.end - step.start for step in steps[:-1]) / number,
            busy=period - sum(step.waited for step in steps[:-1]) / number,
        )


class _WatchedHandle:
    def __init__(self, handle: StepHandle, launch: Launch) -> None:
        self._handle, self._launch = handle, launch

    def done(self) -> bool:
        """Whether the step has ended."""
        return self._handle.done()

    def collect(self) -> StepResult:
        """Wait, and note how long."""
        start = time.perf_counter()
        try:
            return self._handle.collect()
        finally:
            self._launch.waited = time.perf_counter() - start
