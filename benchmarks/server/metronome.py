"""A model runner without a model: every step ends on a tick of the clock, every row gets a token.

The engine is told it as "metronome:every_20_ms".
"""

from __future__ import annotations

import time
from collections.abc import Callable

from windlass.config import EngineConfig, ModelInfo
from windlass.step import StepPlan, StepResult

TOKEN = 300
"""What every row says at every step: "me", in the vocabulary of the demo model."""


def next_tick(period: float) -> float:
    """The first instant of the monotonic clock after now that is a multiple of `period`."""
    return (time.monotonic() // period + 1) * period


class Step:
    """A step that ends at `end`."""

    def __init__(self, result: StepResult, end: float) -> None:
        self._result, self._end = result, end

    def done(self) -> bool:
        """Whether it has ended."""
        return time.monotonic() >= self._end

    def collect(self) -> StepResult:
        """Wait for the tick."""
        time.sleep(max(0.0, self._end - time.monotonic()))
        return self._result


class Metronome:
    """Steps follow each other by `period` seconds."""

    def __init__(self, config: EngineConfig, period: float) -> None:
        self._config, self._period, self._end = config, period, 0.0

    def load(self, progress: Callable[[str, float], None] | None = None) -> ModelInfo:
        """Nothing to load."""
        del progress
        return ModelInfo(
            model="metronome",
            architecture="Metronome",
            backend="fake",
            device="none",
            dtype="float32",
            vocab_size=2048,
            max_model_len=2048,
            block_size=16,
            num_blocks=self._config.scheduler.max_num_seqs * 16,
            max_num_seqs=self._config.scheduler.max_num_seqs,
            max_num_batched_tokens=8192,
            num_parameters=0,
            weight_bytes=0,
            kv_cache_bytes=0,
            load_seconds=0.0,
        )

    def launch(self, plan: StepPlan) -> Step:
        """A step that ends a period after the one before it, at a tick."""
        self._end = max(next_tick(self._period), self._end + self._period)
        tokens = {row.request_id: TOKEN for row in plan.rows if row.samples}
        return Step(StepResult(step_id=plan.step_id, tokens=tokens), self._end)

    def reset(self) -> None:
        """No row holds anything."""

    def close(self) -> None:
        """Nothing to give back."""


def every_millisecond(config: EngineConfig) -> Metronome:
    """More tokens than a server with many streams can send: as many as it can."""
    return Metronome(config, 0.001)


def every_20_ms(config: EngineConfig) -> Metronome:
    """50 tokens a second for each stream."""
    return Metronome(config, 0.02)


def every_second(config: EngineConfig) -> Metronome:
    """One token a second for each stream."""
    return Metronome(config, 1.0)
