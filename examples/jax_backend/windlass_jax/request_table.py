"""The request table: one stable row for each running sequence, what the device needs on the device.

Sampling parameters stay on the host and go up with each step, for they are a few bytes a row; block
tables and the tokens sampled last stay on the device, so that a step can be launched before the
host has seen the tokens of the step before.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from windlass.step import NewRow, SamplingParams, ScheduledRow
from windlass_jax.buckets import bucket, padded
from windlass_jax.sampling import Features, Seen, Wishes


@partial(jax.jit, donate_argnames="tables")
def _enter_blocks(tables: jax.Array, triples: jax.Array) -> jax.Array:
    """Enter int32 `[n, 3]` of (row, index, block); a row past the end is padding."""
    return tables.at[triples[:, 0], triples[:, 1]].set(triples[:, 2], mode="drop")


@partial(jax.jit, donate_argnames="seen")
def _enter_seen(seen: Seen, row: int, prompt: jax.Array, counts: jax.Array) -> Seen:
    return Seen(seen.prompt.at[row].set(prompt), seen.counts.at[row].set(counts))


class RequestTable:
    """Rows 0 to `num_rows - 1`, and a last one for padding.

    Attributes:
        block_tables: int32 `[rows, C]` on the device, 0 (the null block) where unused.
        last_token: int32 `[rows]` on the device, the input of the next decode.
        seen: what penalties know, on the device; None until a request asks for penalties.
    """

    def __init__(self, num_rows: int, columns: int, vocab_size: int, device: jax.Device) -> None:
        self.padding_row = num_rows
        self._columns, self._vocab_size, self._device = columns, vocab_size, device
        self.clear()

    def clear(self) -> None:
        """Forget every row."""
        rows = self.padding_row + 1
        self._sampling: dict[int, SamplingParams] = {}
        self._stops: dict[int, tuple[int, ...]] = {}
        self.block_tables = self._zeros((rows, self._columns), jnp.int32)
        self.last_token = self._zeros((rows,), jnp.int32)
        self.seen: Seen | None = None

    def sampling(self, row: int) -> SamplingParams:
        """What the row's request asks for."""
        return self._sampling[row]

    def remove(self, row: int) -> None:
        """Forget a row."""
        self._sampling.pop(row, None)
        self._stops.pop(row, None)

    def add(self, new: NewRow) -> None:
        """Start a row; its blocks are entered by `enter_blocks`."""
        self._sampling[new.row] = new.sampling
        self._stops[new.row] = new.stop_token_ids
        if new.sampling.has_penalties:
            self._start_penalties(new)

    def enter_blocks(self, new_rows: list[NewRow], blocks: list[tuple[int, int, int]]) -> None:
        """Enter whole block tables, then single blocks of (row, index, block id)."""
        triples = [
            (new.row, index, block) for new in new_rows for index, block in enumerate(new.block_ids)
        ]
        triples += blocks
        if triples:
            count = bucket(max(len(triples), 2), 16)
            array = jax.device_put(
                padded(triples, count, self.padding_row + 1, np.int32), self._device
            )
            self.block_tables = _enter_blocks(self.block_tables, array)

    def wishes(self, sampled: list[ScheduledRow]) -> tuple[Wishes, Features]:
        """What the rows that sample ask for."""
        params = [self._sampling[row.row] for row in sampled]
        size = bucket(len(sampled))

        def column(values: list[int] | list[float], fill: float, dtype: type) -> npt.NDArray[Any]:
            return padded(values, size, fill, dtype)

        seeds = np.array([p.seed or 0 for p in params], dtype=np.int64).view(np.uint32)
        biases = self._biases(sampled)
        count = bucket(max(len(biases), 2))
        places = np.array([entry[:2] for entry in biases], dtype=np.int32).reshape(-1, 2)
        # In the order of the fields.
        columns = (
            column([row.row for row in sampled], self.padding_row, np.int32),
            column([0.0 if p.greedy else p.temperature for p in params], 0, np.float32),
            column([min(max(p.top_k, 0), self._vocab_size) for p in params], 0, np.int32),
            column([p.top_p for p in params], 1, np.float32),
            column([p.min_p for p in params], 0, np.float32),
            column([p.repetition_penalty for p in params], 1, np.float32),
            column([p.frequency_penalty for p in params], 0, np.float32),
            column([p.presence_penalty for p in params], 0, np.float32),
            padded(seeds.reshape(-1, 2), size, 0, np.uint32),
            column([row.start + row.num_tokens for row in sampled], 0, np.int32),
            padded(places, count, size, np.int32),
            padded([entry[2] for entry in biases], count, 0, np.float32),
        )
        wishes = Wishes(*jax.device_put(columns, self._device))
        drawn = [p for p in params if not p.greedy]
        features = Features(
            random=bool(drawn),
            filters=any(p.top_k > 0 or p.top_p < 1 or p.min_p > 0 for p in drawn),
            logprobs=any(p.logprobs is not None for p in params),
        )
        return wishes, features

    def _biases(self, sampled: list[ScheduledRow]) -> list[tuple[int, int, float]]:
        """(row of the sample, token, amount); stop tokens are forbidden before min_tokens."""
        entries: list[tuple[int, int, float]] = []
        for number, row in enumerate(sampled):
            params = self._sampling[row.row]
            entries += [(number, token, b) for token, b in (params.logit_bias or {}).items()]
            if row.output_index < params.min_tokens:
                entries += [(number, token, -np.inf) for token in self._stops[row.row]]
        return entries

    def _start_penalties(self, new: NewRow) -> None:
        if self.seen is None:
            shape = (self.padding_row + 1, self._vocab_size)
            self.seen = Seen(self._zeros(shape, jnp.bool_), self._zeros(shape, jnp.int32))
        prompt = np.zeros(self._vocab_size, dtype=np.bool_)
        prompt[new.token_ids[: new.prompt_len]] = True
        outputs = new.token_ids[new.prompt_len :]
        counts = np.bincount(np.asarray(outputs, np.int64), minlength=self._vocab_size)
        self.seen = _enter_seen(
            self.seen, new.row, *jax.device_put((prompt, counts.astype(np.int32)), self._device)
        )

    def _zeros(self, shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> jax.Array:
        return jnp.zeros(shape, dtype, device=self._device)
