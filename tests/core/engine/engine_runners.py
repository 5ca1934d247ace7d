"""Model runners without torch for tests that start real engine processes.

The next token is one more than the last, so that an answer can be checked; some tokens of a
prompt are commands. A factory here is named to the engine as "engine_runners:fast".
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from windlass.config import EngineConfig, ModelInfo, PoolingInfo
from windlass.errors import ModelError
from windlass.request import Request
from windlass.step import StepPlan, StepResult

VOCAB_SIZE = 512
RAISE = 500
"""A prompt with this token makes its step raise."""
HANG = 501
"""A prompt with this token makes its step hang for good."""
EXIT = 502
"""A prompt with this token ends the process."""
NOT_FINITE = 503
"""A text with this token has no embedding."""


def next_token(token: int) -> int:
    """What follows `token`; letters and other plain tokens only."""
    return 50 + (token + 1) % 100


def answer(prompt: list[int], length: int) -> list[int]:
    """The tokens that these runners answer."""
    tokens = [prompt[-1]]
    for _ in range(length):
        tokens.append(next_token(tokens[-1]))
    return tokens[1:]


@dataclass
class Done:
    """A step that was computed when it was launched."""

    result: StepResult
    error: Exception | None

    def done(self) -> bool:
        return True

    def collect(self) -> StepResult:
        if self.error is not None:
            raise self.error
        return self.result


class CountingRunner:
    """Keeps the last token of every row, as a device would."""

    def __init__(self, config: EngineConfig, step_seconds: float) -> None:
        self._config = config
        self._step_seconds = step_seconds
        self._last: dict[int, int] = {}

    def load(self, progress: Callable[[str, float], None] | None = None) -> ModelInfo:
        if progress is not None:
            progress("counting", 1.0)
        return ModelInfo(
            model=self._config.model.model,
            architecture="Counting",
            backend="fake",
            device="none",
            dtype="float32",
            vocab_size=VOCAB_SIZE,
            max_model_len=4096,
            block_size=self._config.cache.block_size or 16,
            num_blocks=self._config.cache.num_blocks or 4096,
            max_num_seqs=self._config.scheduler.max_num_seqs,
            num_parameters=0,
            weight_bytes=0,
            kv_cache_bytes=0,
            load_seconds=0.0,
        )

    def launch(self, plan: StepPlan) -> Done:
        time.sleep(self._step_seconds)
        result = StepResult(step_id=plan.step_id, tokens={})
        error = None
        for new in plan.new_rows:
            self._last[new.row] = new.token_ids[-1]
        for row in plan.rows:
            if RAISE in row.token_ids:
                error = ValueError("a token that makes the step raise")
            if HANG in row.token_ids:
                threading.Event().wait()
            if EXIT in row.token_ids:
                os._exit(7)
            if row.samples:
                token = next_token(self._last[row.row])
                self._last[row.row] = result.tokens[row.request_id] = token
        return Done(result, error)

    def reset(self) -> None:
        self._last.clear()

    def close(self) -> None:
        self._last.clear()


def fast(config: EngineConfig) -> CountingRunner:
    """A runner whose steps take no time."""
    return CountingRunner(config, 0.0)


def slow(config: EngineConfig) -> CountingRunner:
    """A runner whose steps take long enough to interrupt an answer."""
    return CountingRunner(config, 0.005)


class BrokenRunner(CountingRunner):
    """A runner that cannot load, in the way its model name says."""

    def load(self, progress: Callable[[str, float], None] | None = None) -> ModelInfo:
        if self._config.model.model == "exit":
            os._exit(9)
        if self._config.model.model == "bug":
            raise ZeroDivisionError("counting\nfailed")
        if self._config.model.model == "wait":
            threading.Event().wait()
        raise ModelError("model.safetensors has no tensor 'lm_head.weight'")


def broken(config: EngineConfig) -> BrokenRunner:
    """A runner that cannot load."""
    return BrokenRunner(config, 0.0)


@dataclass
class Summed:
    """A batch whose texts were added up when it was launched."""

    requests: list[Request]

    def collect(self) -> list[bytes | None]:
        return [
            None if NOT_FINITE in r.prompt_token_ids else summed(r.prompt_token_ids)
            for r in self.requests
        ]


def summed(token_ids: list[int]) -> bytes:
    """The vector that `SummingRunner` makes of a text: its length and the sum of its tokens."""
    return struct.pack("<2f", len(token_ids), sum(token_ids))


class SummingRunner:
    """Embeds texts by adding them up; notes the lengths of every batch."""

    def __init__(self, config: EngineConfig, step_seconds: float = 0.0) -> None:
        self._config = config
        self._step_seconds = step_seconds
        self.batches: list[list[int]] = []
        self.resets = 0
        self.broken = False

    def load(self, progress: Callable[[str, float], None] | None = None) -> ModelInfo:
        counting = CountingRunner(self._config, 0.0).load(progress)
        pooling = PoolingInfo(task="embed", method="last", dimensions=2, normalize=False)
        return msgspec.structs.replace(
            counting, pooling=pooling, max_model_len=512, block_size=0, num_blocks=0
        )

    def launch(self, requests: Sequence[Request]) -> Summed:
        time.sleep(self._step_seconds)
        self.batches.append([len(r.prompt_token_ids) for r in requests])
        tokens = {token for r in requests for token in r.prompt_token_ids}
        if RAISE in tokens:
            raise ValueError("a token that makes the batch raise")
        if HANG in tokens:
            threading.Event().wait()
        if EXIT in tokens:
            os._exit(7)
        return Summed(list(requests))

    def reset(self) -> None:
        self.resets += 1
        if self.broken:
            raise RuntimeError("the device is gone")

    def close(self) -> None:
        self.batches.clear()


def summing(config: EngineConfig) -> SummingRunner:
    """A runner that embeds; its batches take no time."""
    return SummingRunner(config)


def slowly_summing(config: EngineConfig) -> SummingRunner:
    """A runner that embeds; its batches take long enough to interrupt them."""
    return SummingRunner(config, 0.02)
