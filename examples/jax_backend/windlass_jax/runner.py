"""The model runner: plans in, tokens out. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from windlass.backend import Capabilities, size_kv_cache
from windlass.checkpoint import DecoderConfig, describe_model, open_weights
from windlass.config import EngineConfig, ModelInfo
from windlass.step import ScheduledRow, StepHandle, StepPlan
from windlass_jax.attention import KVBlocks, blocks_per_round
from windlass_jax.batch import make_batch
from windlass_jax.buckets import bucket, padded
from windlass_jax.handle import Launched, PromptPart, TokenPart
from windlass_jax.memory import check_supported, kv_budget, zeros_on
from windlass_jax.model import Cache, forward
from windlass_jax.request_table import RequestTable
from windlass_jax.sampling import sample_step, target_logprobs
from windlass_jax.weights import read_weights

PROMPT_LOGPROB_ROWS = 256
"""Prompt positions whose logits are held at once when prompt log-probabilities are wanted."""


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
        decoder = described.decoder
        report = progress or (lambda what, share: None)
        with open_weights(config.model, described) as source:
            self._weights = read_weights(
                source, decoder, dtype, self._device, lambda share: report("Loading weights", share)
            )
        weight_bytes = _nbytes(self._weights)
        self._block_size = config.cache.block_size or self._capabilities.preferred_block_size
        width = 2 * decoder.kv_size * jnp.dtype(dtype).itemsize
        block_bytes = decoder.num_layers * self._block_size * width
        num_blocks, max_model_len = size_kv_cache(
            config,
            self._capabilities,
            max_model_len=decoder.max_position,
            block_size=self._block_size,
            block_bytes=block_bytes,
            budget=lambda: kv_budget(config, self._capabilities, decoder, dtype, weight_bytes),
        )
        self._decoder: DecoderConfig = decoder
        shape = (num_blocks, self._block_size, decoder.num_kv_heads, decoder.head_dim)
        self._new_cache = lambda: _new_cache(decoder.num_layers, shape, dtype, self._device)
        self._cache: Cache = self._new_cache()
        max_seqs = config.scheduler.max_num_seqs
        columns = -(-max_model_len // self._block_size)
        per_round = blocks_per_round(self._block_size)
        columns = -(-columns // per_round) * per_round
        self._table = RequestTable(max_seqs, columns, decoder.vocab_size, self._device)
        return ModelInfo(
            model=config.model.model,
            architecture=described.architecture,
            backend=self._name,
            device=f"{self._device.platform}:{self._device.id}",
            dtype=dtype,
            vocab_size=decoder.vocab_size,
            max_model_len=max_model_len,
            block_size=self._block_size,
            num_blocks=num_blocks,
            max_num_seqs=max_seqs,
            max_num_batched_tokens=config.scheduler.token_budget(
                self._capabilities.preferred_token_budget
            ),
            num_parameters=decoder.num_parameters,
            weight_bytes=weight_bytes,
            kv_cache_bytes=num_blocks * block_bytes,
            load_seconds=time.monotonic() - started,
            eos_token_ids=described.eos_token_ids,
        )

    def launch(self, plan: StepPlan) -> StepHandle:
        """Start a step."""
        for row in plan.freed_rows:
            self._table.remove(row)
        for new in plan.new_rows:
            self._table.add(new)
        self._table.enter_blocks(plan.new_rows, plan.new_blocks)
        batch = make_batch(plan.rows, self._table.padding_row)
        hidden, self._cache = forward(
            self._weights,
            self._cache,
            self._table.block_tables,
            self._table.last_token,
            batch,
            self._decoder,
        )
        return Launched(plan.step_id, hidden, self._sample(plan, hidden), self._prompts(plan, hidden))

    def reset(self) -> None:
        """Forget every row; a step that failed may have taken the donated cache with it."""
        self._table.clear()
        if any(part.is_deleted() for part in jax.tree.leaves(self._cache)):
            self._cache = self._new_cache()

    def close(self) -> None:
        """Give back the memory of weights and cache."""
        for name in ("_weights", "_cache", "_table"):
            self.__dict__.pop(name, None)

    def _sample(self, plan: StepPlan, hidden: jax.Array) -> TokenPart | None:
        """The tokens of the rows that sample."""
        ends = np.cumsum([row.num_tokens for row in plan.rows]) - 1
        sampled = [
            (row, int(end)) for row, end in zip(plan.rows, ends, strict=True) if row.samples
        ]
        if not sampled:
            return None
        table = self._table
        wishes, features = table.wishes(sampled)
        tokens, table.last_token, table.seen, logprobs = sample_step(
            self._weights.lm_head, hidden, table.last_token, table.seen, wishes, features
        )
        rows = [row for row, _ in sampled]
        return TokenPart(rows, tokens, [table.sampling(r.row).logprobs for r in rows], logprobs)

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
            size = bucket(len(some), 32)
            index = np.arange(start + first, start + first + len(some))
            logprobs = target_logprobs(
                self._weights.lm_head,
                hidden,
                padded(index, size, 0, np.int32),
                padded(some, size, 0, np.int32),
            )
            count = self._table.sampling(row.row).prompt_logprobs or 0
            parts.append(PromptPart(row.request_id, some, count, logprobs))
        return parts


def _new_cache(layers: int, shape: tuple[int, ...], dtype: str, device: jax.Device) -> Cache:
    """Zeros for each layer's keys and values.

    Raises:
        OutOfMemoryError: they do not fit.
    """
    return tuple(
        KVBlocks(zeros_on(shape, dtype, device), zeros_on(shape, dtype, device))
        for _ in range(layers)
    )


def _nbytes(tree: object) -> int:
    """Memory of all arrays; one that stands in several places counts once."""
    leaves = {id(leaf): leaf for leaf in jax.tree.leaves(tree)}
    return sum(leaf.nbytes for leaf in leaves.values())
