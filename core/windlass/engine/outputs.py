"""What the engine tells its front ends after a step: typed, ready for msgpack."""

from __future__ import annotations

import msgspec

from windlass.request import FinishReason, RequestMetrics, TokenLogprobs


class SequenceOutput(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """News of one sequence: the tokens since the last output, and its end when it ended.

    `logprobs` runs beside `new_token_ids`; `prompt_logprobs` comes once, with the first token, an
    entry per prompt token (the first None). `stop_reason` is the stop token's id. `error` explains
    `finish_reason="error"`. `metrics` comes with the end. `pooled` is the result of a text that was
    to be embedded or scored: float32 numbers, little-endian.
    """

    request_id: str
    new_token_ids: list[int] = []
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | None = None
    num_cached_tokens: int = 0
    error: str | None = None
    metrics: RequestMetrics | None = None
    pooled: bytes | None = None

    @property
    def finished(self) -> bool:
        """Whether the sequence ended."""
        return self.finish_reason is not None


class EngineStats(msgspec.Struct, kw_only=True):
    """Gauges now and counters since start.

    `kv_cache_usage` is the share of blocks that sequences hold. `last_step_end` is in seconds of
    the engine's clock. Prefix queries and hits are in tokens. All steps together computed
    `step_tokens`; `step_sizes` counts steps by their tokens (`windlass.engine.step_sizes`).
    """

    num_running: int = 0
    num_waiting: int = 0
    num_waiting_tokens: int = 0
    kv_cache_usage: float = 0.0
    num_free_blocks: int = 0
    num_blocks: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    num_preemptions: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    num_steps: int = 0
    last_step_end: float = 0.0
    last_step_tokens: int = 0
    step_tokens: int = 0
    step_sizes: list[int] = []
