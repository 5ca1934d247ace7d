"""The model runner: plans in, tokens out. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from windlass.backend import Capabilities, size_kv_cache
from windlass.checkpoint import DecoderConfig, describe_model, open_weights
from windlass.config import EngineConfig, ModelInfo
from windlass.step import ScheduledRow, StepHandle, StepPlan
from windlass_jax.attention import blocks_per_round
from windlass_jax.batch import make_batch
from windlass_jax.buckets import bucket, padded
from windlass_jax.handle import Launched, PromptPart, TokenPart
from windlass_jax.memory import check_supported, kv_budget, new_cache
from windlass_jax.model import Cache, final_states, forward
from windlass_jax.request_table import RequestTable
from windlass_jax.sampling import sample_step, target_logprobs
from windlass_jax.weights import read_weights

PROMPT_LOGPROB_ROWS = 256
"""Prompt positions whose logits are held at once when prompt log-probabilities are wanted."""


class _Sizes(NamedTuple):
    num_blocks: int
    block_size: int
    max_model_len: int


class JaxModelRunner:
    """Implements `windlass.step.ModelRunner` on one JAX device.

    JAX dispatches asynchronously: `launch` returns when a step is queued, and `collect` waits.
    """

    def __init__(self, config: EngineConfig, name: str, capabilities: Capabilities) -> None:
        self._config = config
        self._name = name
        self._capabilities = capabilities
        self._device = jax.devices("cpu")[config.backend.device_index]

    def load(self, progress: Callable[[str, float], None] | None = None) -> ModelInfo:
        """Load weights, size and reserve the KV cache.

        Raises:
            UnsupportedError: the configuration asks for what this runner does not do.
        """
        started = time.monotonic()
        config = self._config
        described = describe_model(config.model)
        dtype = check_supported(config, described)
        self._decoder: DecoderConfig = described.decoder
        report = progress or (lambda what, share: None)
        with open_weights(config.model, described) as source:
            self._weights = read_weights(
                source,
                self._decoder,
                dtype,
                self._device,
                lambda share: report("Loading weights", share),
            )
        sizes = self._reserve(dtype)
        return ModelInfo(
            model=config.model.model,
            architecture=described.architecture,
            backend=self._name,
            device=f"{self._device.platform}:{self._device.id}",
            dtype=dtype,
            vocab_size=self._decoder.vocab_size,
            max_model_len=sizes.max_model_len,
            block_size=sizes.block_size,
            num_blocks=sizes.num_blocks,
            max_num_seqs=config.scheduler.max_num_seqs,
            max_num_batched_tokens=config.scheduler.token_budget(
                self._capabilities.preferred_token_budget
            ),
            num_parameters=self._decoder.num_parameters,
            weight_bytes=self._weights.nbytes,
            kv_cache_bytes=sum(blocks.keys.nbytes + blocks.values.nbytes for blocks in self._cache),
            load_seconds=time.monotonic() - started,
            eos_token_ids=described.eos_token_ids,
        )

    def _reserve(self, dtype: str) -> _Sizes:
        """Make the KV cache and the request table.

        Raises:
            OutOfMemoryError: they do not fit.
        """
        config, decoder, capabilities = self._config, self._decoder, self._capabilities
        block_size = config.cache.block_size or capabilities.preferred_block_size
        token_bytes = 2 * decoder.num_layers * decoder.kv_size * jnp.dtype(dtype).itemsize
        num_blocks, max_model_len = size_kv_cache(
            config,
            capabilities,
            max_model_len=decoder.max_position,
            block_size=block_size,
            block_bytes=block_size * token_bytes,
            budget=lambda: kv_budget(config, capabilities, decoder, dtype, self._weights.nbytes),
        )
        shape = (num_blocks, block_size, decoder.num_kv_heads, decoder.head_dim)
        self._new_cache = partial(new_cache, decoder.num_layers, shape, dtype, self._device)
        self._cache: Cache = self._new_cache()
        per_round = blocks_per_round(block_size)
        rounds = -(-max_model_len // (block_size * per_round))
        self._table = RequestTable(
            config.scheduler.max_num_seqs, rounds * per_round, decoder.vocab_size, self._device
        )
        return _Sizes(num_blocks, block_size, max_model_len)

    def launch(self, plan: StepPlan) -> StepHandle:
        """Start a step."""
        for row in plan.freed_rows:
            self._table.remove(row)
        for new in plan.new_rows:
            self._table.add(new)
        self._table.enter_blocks(plan.new_rows, plan.new_blocks)
        batch = make_batch(plan.rows, self._table.padding_row, self._device)
        hidden, self._cache = forward(
            self._weights,
            self._cache,
            self._table.block_tables,
            self._table.last_token,
            batch,
            self._decoder,
        )
        return Launched(
            plan.step_id, hidden, self._sample(plan, hidden), self._prompts(plan, hidden)
        )

    def reset(self) -> None:
        """Forget every row. A step that failed took the cache with it, which it was given."""
        self._table.clear()
        self._cache = ()
        self._cache = self._new_cache()

    def close(self) -> None:
        """Give back the memory of weights and cache."""
        for name in ("_weights", "_cache", "_table"):
            self.__dict__.pop(name, None)

    def _sample(self, plan: StepPlan, hidden: jax.Array) -> TokenPart | None:
        """The tokens of the rows that sample."""
        ends = np.cumsum([row.num_tokens for row in plan.rows]) - 1
        rows = [row for row in plan.rows if row.samples]
        if not rows:
            return None
        index = [end for row, end in zip(plan.rows, ends, strict=True) if row.samples]
        states = self._states(hidden, index, bucket(len(rows)))
        table = self._table
        wishes, features = table.wishes(rows)
        tokens, table.last_token, table.seen, logprobs = sample_step(
            self._weights.lm_head, states, table.last_token, table.seen, wishes, features
        )
        counts = [table.sampling(row.row).logprobs for row in rows]
        return TokenPart(rows, tokens, counts, logprobs)

    def _put(self, array: npt.NDArray[Any]) -> jax.Array:
        placed: jax.Array = jax.device_put(array, self._device)
        return placed

    def _states(self, hidden: jax.Array, index: Sequence[int], size: int) -> jax.Array:
        """Hidden states after the final norm, `size` of them: those at `index` come first."""
        at = self._put(padded(index, size, 0, np.int32))
        eps = self._decoder.rms_norm_eps
        states: jax.Array = final_states(hidden, at, self._weights.norm, eps)
        return states

    def _prompts(self, plan: StepPlan, hidden: jax.Array) -> list[PromptPart]:
        """Log-probabilities of prompt tokens, a few positions at a time."""
        parts: list[PromptPart] = []
        start = 0
        for row in plan.rows:
            parts += self._prompt(row, start, hidden)
            start += row.num_tokens
        return parts

    def _prompt(self, row: ScheduledRow, start: int, hidden: jax.Array) -> list[PromptPart]:
        targets = row.prompt_targets or []
        parts = []
        for first in range(0, len(targets), PROMPT_LOGPROB_ROWS):
            some = targets[first : first + PROMPT_LOGPROB_ROWS]
            size = bucket(max(len(some), 2), 32)
            states = self._states(hidden, range(start + first, start + first + len(some)), size)
            logprobs = target_logprobs(
                self._weights.lm_head, states, self._put(padded(some, size, 0, np.int32))
            )
            count = self._table.sampling(row.row).prompt_logprobs or 0
            parts.append(PromptPart(row.request_id, some, count, logprobs))
        return parts
