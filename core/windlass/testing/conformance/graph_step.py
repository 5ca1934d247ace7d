"""A decode step from request table to chosen tokens, small, on static buffers: what L5 captures.

Two layers of attention with projections, built of the backend's own ops as the core builds them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from windlass.backend import (
    AttentionBatch,
    AttentionParams,
    Backend,
    KVLayout,
    KVPool,
    KVSpec,
)
from windlass.testing.conformance.cases import Skipped

VOCABULARY = 131
TABLE_ROWS = 9
"""Rows of sequences; the row behind them is padding."""

_LAYERS, _HEADS, _KV_HEADS = 2, 4, 2
_SEED = 11


@dataclass(frozen=True)
class Output:
    """What a step of R rows leaves: tokens int64 `[R]`, logits float32 `[R, V]`, and `kept`,
    which nobody else refers to."""

    tokens: torch.Tensor
    logits: torch.Tensor
    kept: object


class DecodeStep:
    """The state of the sequences and the model; two made alike stay alike while they do the same.

    Attributes:
        rows: int32 `[TABLE_ROWS]`, rows of the table that the next step decodes.
        last_token, position, block_table, temperature, seed, ...: as in the op `begin_decode`.
        max_len: tokens that a sequence can have.
    """

    def __init__(self, backend: Backend, dtype: torch.dtype) -> None:
        self.backend = backend
        device = self.device = backend.device.torch_device
        generator = torch.Generator().manual_seed(_SEED)

        def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
            return (torch.randn(shape, generator=generator) * scale).to(device, dtype)

        sizes = backend.capabilities.head_dims
        head_dim = 64 if not sizes or 64 in sizes else sizes[0]
        hidden = _HEADS * head_dim
        self._spec = KVSpec(num_kv_heads=_KV_HEADS, head_dim=head_dim, dtype=dtype)
        self._layout = backend.kv_layouts(self._spec)[0]
        self._params = AttentionParams(scale=head_dim**-0.5)
        support = backend.attention.supports(
            self._spec, self._layout, dtype, self._params, backend.capabilities.graph
        )
        if not support:
            raise Skipped(support.reason)
        self._embedding = normal(VOCABULARY, hidden)
        self._norm = normal(hidden, scale=0.1) + 1
        pack = backend.ops.pack_weight
        width = (_HEADS + 2 * _KV_HEADS) * head_dim
        self._qkv = [pack(normal(width, hidden, scale=hidden**-0.5)) for _ in range(_LAYERS)]
        self._out = [pack(normal(hidden, hidden, scale=hidden**-0.5)) for _ in range(_LAYERS)]
        self._head = pack(normal(VOCABULARY, hidden, scale=0.2))
        blocks = 3
        self.max_len = blocks * self._layout.block_size
        angle = torch.arange(self.max_len)[:, None] / 10000 ** torch.linspace(0, 1, head_dim // 2)
        self._cos_sin = torch.cat((angle.cos(), angle.sin()), dim=1).to(device)
        self.pool = self._make_pool(self._layout, 1 + TABLE_ROWS * blocks)
        rows = TABLE_ROWS + 1
        self.rows = torch.full((TABLE_ROWS,), TABLE_ROWS, dtype=torch.int32, device=device)
        self.last_token = torch.zeros(rows, dtype=torch.int64, device=device)
        self.position = torch.zeros(rows, dtype=torch.int64, device=device)
        self.block_table = torch.zeros(rows, blocks, dtype=torch.int32, device=device)
        self.temperature = torch.zeros(rows, dtype=torch.float32, device=device)
        self.top_k = torch.zeros(rows, dtype=torch.int32, device=device)
        self.top_p = torch.ones(rows, dtype=torch.float32, device=device)
        self.min_p = torch.zeros(rows, dtype=torch.float32, device=device)
        self.seed = torch.zeros(rows, dtype=torch.int64, device=device)
        self._cu_seqlens = torch.arange(TABLE_ROWS + 1, dtype=torch.int32, device=device)

    def _make_pool(self, layout: KVLayout, num_blocks: int) -> KVPool:
        nbytes = num_blocks * layout.block_bytes(self._spec, _LAYERS)
        buffer = torch.zeros(nbytes, dtype=torch.uint8, device=self.device)
        return KVPool.carve(buffer, self._spec, layout, _LAYERS, num_blocks)

    # The host's part

    def start(self, lens: list[int], *, seed: int = 0) -> None:
        """Sequences of `lens` tokens in the first rows, in blocks of random order.

        Their past is written through `write_kv`; the next step decodes all of them.
        """
        generator = torch.Generator().manual_seed(seed)
        columns = self.block_table.shape[1]
        order = torch.randperm(TABLE_ROWS * columns, generator=generator).int() + 1
        table = order.view(TABLE_ROWS, columns)
        self.block_table[:TABLE_ROWS].copy_(table)
        self.enter("last_token", torch.randint(VOCABULARY, (len(lens),), generator=generator))
        self.enter("position", torch.tensor(lens))
        size = self.pool.block_size
        for row, length in enumerate(lens):
            at = torch.arange(length)
            slots = table[row, at // size].long() * size + at % size
            slots = slots.to(self.device, self.pool.layout.slot_dtype)
            for layer in range(_LAYERS):
                shape = (2, length, _KV_HEADS, self._spec.head_dim)
                past = torch.randn(shape, generator=generator).to(self.device, self._spec.dtype)
                self.backend.attention.write_kv(self.pool, layer, past[0], past[1], slots)
        self.choose(list(range(len(lens))))

    def enter(self, column: str, values: torch.Tensor) -> None:
        """Write `values` into the first rows of a column of the table, where it lies."""
        target: torch.Tensor = getattr(self, column)
        target[: len(values)].copy_(values)

    def choose(self, rows: list[int]) -> None:
        """Let the next step decode `rows`, and padding behind them."""
        padded = rows + [TABLE_ROWS] * (TABLE_ROWS - len(rows))
        self.rows.copy_(torch.tensor(padded, dtype=torch.int32))

    def state(self) -> dict[str, torch.Tensor]:
        """Copies on the host of all that a step may change, but padding and the null block."""
        tables = {
            name: getattr(self, name)[:-1].cpu().clone()
            for name in ("last_token", "position", "block_table", "temperature", "seed")
        }
        blocks = torch.arange(1, self.pool.num_blocks, device=self.device)
        for layer in range(_LAYERS):
            cache = self.backend.attention.export_blocks(self.pool, layer, blocks)
            tables[f"cache of layer {layer}"] = cache.cpu().clone()
        return tables

    # The device's part

    def run(self, size: int, *, capture: bool = True, lens: list[int] | None = None) -> Output:
        """Decode the first `size` of `rows`, op by op; inside a capture, into the graph.

        The host says that every sequence may be as long as the table allows, or `lens`.
        """
        backend = self.backend
        rows = self.rows[:size]
        tokens, positions, seq_lens, slots, blocks = backend.ops.begin_decode(
            rows,
            self.last_token,
            self.position,
            self.block_table,
            self.block_table.shape[1],
            self.pool.block_size,
            self.pool.layout.slot_dtype,
        )
        known = lens or [self.max_len] * size
        batch = AttentionBatch(
            cu_seqlens_q=self._cu_seqlens[: size + 1],
            seq_lens=seq_lens,
            block_table=blocks,
            slot_mapping=slots,
            num_decodes=size,
            max_query_len=1,
            max_seq_len=max(known),
            cu_seqlens_q_cpu=list(range(size + 1)),
            seq_lens_cpu=known,
        )
        plan = backend.attention.plan(batch, self.pool, capture=capture)
        backend.attention.plan_in_graph(plan)
        x = self._embedding.index_select(0, tokens)
        for layer in range(_LAYERS):
            x = x + self._attend(layer, x, positions, slots, plan)
        logits = self._head.apply_float(backend.ops.rms_norm(x, self._norm, 1e-6))
        chosen, finite = backend.ops.next_tokens(
            logits,
            rows,
            self.last_token,
            self.position,
            self.temperature,
            self.top_k,
            self.top_p,
            self.min_p,
            self.seed,
        )
        return Output(torch.where(finite, chosen, -1), logits, (plan, batch))

    def _attend(
        self,
        layer: int,
        x: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        plan: object,
    ) -> torch.Tensor:
        attention, ops = self.backend.attention, self.backend.ops
        qkv = self._qkv[layer].apply(ops.rms_norm(x, self._norm, 1e-6))
        qkv = qkv.view(len(x), -1, self._spec.head_dim)
        query, key, value = qkv.split_with_sizes([_HEADS, _KV_HEADS, _KV_HEADS], dim=1)
        query = attention.rope_and_write(
            self.pool, layer, query, key, value, positions, self._cos_sin, slots, None, ops
        )
        # As in the core's layers: an output's memory is not cleared.
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        attention.run(self.pool, layer, query, plan, self._params, out)
        result: torch.Tensor = self._out[layer].apply(out.view(len(x), -1))
        return result
