"""Whole decode steps as graphs: from the request table to the sampled tokens, one launch a step.

A step of R rows replays the smallest graph of at least R; the rows that are too many point to the
table's padding row, which changes nothing. Tokens, positions, slots and lengths come from the table
on the device, and the chosen tokens go back into it, so a step can be launched before the host
knows the tokens of the step before.
"""

from __future__ import annotations

import bisect
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from windlass.backend import (
    AttentionBatch,
    Backend,
    ForwardContext,
    Graph,
    GraphPool,
    KVPool,
)
from windlass.executor.request_table import RequestTable
from windlass.models.decoder import Decoder

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class DecodeOutput:
    """What a replay leaves behind, for `size` rows: valid until the next one.

    `tokens` int64 `[size]`, -1 where the logits are not finite; `logits` float32 `[size, V]`.
    `kept` holds what the graph reads and nobody else refers to.
    """

    tokens: torch.Tensor
    logits: torch.Tensor
    kept: object


def graph_sizes(max_num_seqs: int) -> list[int]:
    """Numbers of rows worth a graph: close together where a padded row costs most."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, 512, 32)]
    sizes += range(512, max_num_seqs, 64)
    return [*(size for size in sizes if size < max_num_seqs), max_num_seqs]


class DecodeGraphs:
    """The graphs of one model on one pool."""

    def __init__(
        self,
        backend: Backend,
        graphs: GraphPool,
        decoder: Decoder,
        pool: KVPool,
        table: RequestTable,
        max_model_len: int,
    ) -> None:
        self._backend = backend
        self._graphs = graphs
        self._decoder = decoder
        self._pool = pool
        self._table = table
        self._max_model_len = max_model_len
        self._sizes = graph_sizes(table.padding_row)
        device = backend.device.torch_device
        self._rows = torch.full(
            (self._sizes[-1],), table.padding_row, dtype=torch.int32, device=device
        )
        self._cu_seqlens = torch.arange(self._sizes[-1] + 1, dtype=torch.int32, device=device)
        self._copied: torch.Tensor | None = None
        self._captured: dict[int, tuple[Graph, DecodeOutput]] = {}

    def capture(self, progress: Callable[[str, float], None] | None) -> None:
        """Capture every size, the largest first, so that the smaller ones reuse its memory.

        All rows are padding meanwhile: capturing changes neither table nor cache.
        """
        started = time.monotonic()
        for done, size in enumerate(reversed(self._sizes)):
            if progress is not None:
                progress("Capturing decode graphs", done / len(self._sizes))
            self._captured[size] = self._capture(size)
        logger.info(
            "captured %d decode graphs for up to %d sequences in %.1f s, %.2f GiB",
            len(self._sizes),
            self._sizes[-1],
            time.monotonic() - started,
            self._graphs.memory_bytes() / (1 << 30),
        )

    def run(self, rows: torch.Tensor) -> DecodeOutput:
        """Launch a step over int32 `rows` of the table, each decoding one token.

        A tensor is copied once: giving the same one again means the same rows.
        """
        count = len(rows)
        size = self._sizes[bisect.bisect_left(self._sizes, count)]
        if rows is not self._copied:
            self._rows[:count].copy_(rows)
            self._rows[count:].fill_(self._table.padding_row)
            self._copied = rows
        graph, output = self._captured[size]
        graph.replay()
        return output

    def close(self) -> None:
        """Give back the memory of all graphs."""
        for graph, _ in self._captured.values():
            graph.close()
        self._captured.clear()

    def _capture(self, size: int) -> tuple[Graph, DecodeOutput]:
        outputs: list[DecodeOutput] = []

        def step() -> None:
            outputs[:] = [self._step(size)]

        graph = self._graphs.capture(step, key=("decode", size))
        return graph, outputs[0]

    def _step(self, size: int) -> DecodeOutput:
        backend, table, pool = self._backend, self._table, self._pool
        rows = self._rows[:size]
        token_ids, positions, seq_lens, slots, blocks = backend.ops.begin_decode(
            rows,
            table.last_token,
            table.position,
            table.block_table,
            table.block_table.shape[1],
            pool.block_size,
            pool.layout.slot_dtype,
        )
        batch = AttentionBatch(
            cu_seqlens_q=self._cu_seqlens[: size + 1],
            seq_lens=seq_lens,
            block_table=blocks,
            slot_mapping=slots,
            num_decodes=size,
            max_query_len=1,
            max_seq_len=self._max_model_len,
            cu_seqlens_q_cpu=list(range(size + 1)),
            seq_lens_cpu=[self._max_model_len] * size,
        )
        plan = backend.attention.plan(batch, pool, capture=True)
        backend.attention.plan_in_graph(plan)
        context = ForwardContext(backend.attention, pool, plan, slots)
        logits = self._decoder.logits(self._decoder.forward(token_ids, positions, context))
        tokens, finite = backend.ops.next_tokens(
            logits,
            rows,
            table.last_token,
            table.position,
            table.temperature,
            table.top_k,
            table.top_p,
            table.min_p,
            table.seed,
        )
        return DecodeOutput(torch.where(finite, tokens, -1), logits, plan)
