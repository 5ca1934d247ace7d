"""Small checkpoints with real configurations, and a paged forward pass over them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from windlass.backend import (
    Attention,
    AttentionBatch,
    Backend,
    ForwardContext,
    KVPool,
    KVSpec,
    TorchBackend,
)
from windlass.config import BackendConfig
from windlass.loader import LoadedModel
from windlass.plugin.spec import BackendSpec

SaveModel = Callable[..., Path]
PagedLogits = Callable[..., list[torch.Tensor]]


@pytest.fixture(scope="session")
def backend() -> Backend:
    spec = BackendSpec(name="reference", target="", device_type="cpu", priority=1)
    return TorchBackend(spec, BackendConfig())


@pytest.fixture(scope="session")
def save_model(tmp_path_factory: pytest.TempPathFactory) -> SaveModel:
    """Saves a model of the given configuration; every weight is random, norms and biases too."""

    def save(config: PreTrainedConfig, seed: int = 0, **save_options: Any) -> Path:
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            mean = 1.0 if name.endswith("norm.weight") else 0.0
            torch.nn.init.normal_(parameter, mean=mean, std=0.1)
        folder = tmp_path_factory.mktemp(config.model_type)
        model.save_pretrained(folder, **save_options)
        return folder

    return save


@pytest.fixture(scope="session")
def transformers_logits() -> Callable[..., list[torch.Tensor]]:
    """transformers' logits of each sequence on its own, as float32."""

    def run(
        folder: Path, sequences: Sequence[Sequence[int]], dtype: torch.dtype = torch.float32
    ) -> list[torch.Tensor]:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager"
        )
        with torch.inference_mode():
            return [model(torch.tensor([tokens])).logits[0].float() for tokens in sequences]

    return run


@pytest.fixture(scope="session")
def paged_logits(backend: Backend) -> PagedLogits:
    """Logits of every token of every sequence, computed chunk by chunk through the paged cache.

    `chunks` holds, per sequence, the lengths of its chunks; each step runs the next chunk of every
    sequence that has one. Blocks are handed out in random order from a cache full of rubbish.
    """

    def run(
        loaded: LoadedModel,
        sequences: Sequence[Sequence[int]],
        chunks: Sequence[Sequence[int]],
        block_size: int = 4,
        seed: int = 0,
    ) -> list[torch.Tensor]:
        needed = [-(-len(tokens) // block_size) for tokens in sequences]
        pool = _pool(backend, loaded, block_size, num_blocks=1 + sum(needed))
        generator = torch.Generator().manual_seed(seed)
        free = (torch.randperm(sum(needed), generator=generator) + 1).tolist()
        tables = [[free.pop() for _ in range(count)] for count in needed]
        logits: list[list[torch.Tensor]] = [[] for _ in sequences]
        with torch.inference_mode():
            for step in _steps(chunks):
                batch, positions = _batch(step, tables, block_size)
                token_ids = torch.tensor(
                    [t for i, start, end in step for t in sequences[i][start:end]]
                )
                context = _context(backend.attention, pool, batch)
                hidden = loaded.decoder.forward(token_ids, positions, context)
                rows = loaded.decoder.logits(hidden).split_with_sizes(
                    [end - start for _, start, end in step]
                )
                for (i, _, _), row in zip(step, rows, strict=True):
                    logits[i].append(row)
        backend.allocator.release("test")
        return [torch.cat(parts) for parts in logits]

    return run


def _pool(backend: Backend, loaded: LoadedModel, block_size: int, num_blocks: int) -> KVPool:
    config = loaded.decoder_config
    spec = KVSpec(num_kv_heads=config.num_kv_heads, head_dim=config.head_dim, dtype=loaded.dtype)
    layout = dataclasses.replace(backend.kv_layouts(spec)[0], block_size=block_size)
    nbytes = num_blocks * layout.block_bytes(spec, config.num_layers)
    buffer = backend.allocator.reserve(nbytes, tag="test")
    pool = KVPool.carve(buffer, spec, layout, config.num_layers, num_blocks)
    for cache in (*pool.keys, *pool.values):
        cache.fill_(7.0)
    return pool


def _steps(chunks: Sequence[Sequence[int]]) -> list[list[tuple[int, int, int]]]:
    """Per step (sequence, first token, end), decodes first."""
    steps = []
    computed = [0] * len(chunks)
    for number in range(max(map(len, chunks))):
        step = []
        for i, lengths in enumerate(chunks):
            if number < len(lengths):
                step.append((i, computed[i], computed[i] + lengths[number]))
                computed[i] += lengths[number]
        steps.append(sorted(step, key=lambda part: part[2] - part[1] > 1))
    return steps


def _batch(
    step: list[tuple[int, int, int]], tables: list[list[int]], block_size: int
) -> tuple[AttentionBatch, torch.Tensor]:
    lengths = [end - start for _, start, end in step]
    seq_lens = [end for _, _, end in step]
    cu_seqlens_q = [0]
    for length in lengths:
        cu_seqlens_q.append(cu_seqlens_q[-1] + length)
    widest = max(len(tables[i]) for i, _, _ in step)
    slots = [
        tables[i][p // block_size] * block_size + p % block_size
        for i, start, end in step
        for p in range(start, end)
    ]
    batch = AttentionBatch(
        cu_seqlens_q=torch.tensor(cu_seqlens_q, dtype=torch.int32),
        seq_lens=torch.tensor(seq_lens, dtype=torch.int32),
        block_table=torch.tensor(
            [tables[i] + [0] * (widest - len(tables[i])) for i, _, _ in step], dtype=torch.int32
        ),
        slot_mapping=torch.tensor(slots, dtype=torch.int64),
        num_decodes=lengths.count(1),
        max_query_len=max(lengths),
        max_seq_len=max(seq_lens),
        cu_seqlens_q_cpu=cu_seqlens_q,
        seq_lens_cpu=seq_lens,
    )
    return batch, torch.tensor([p for _, start, end in step for p in range(start, end)])


def _context(attention: Attention, pool: KVPool, batch: AttentionBatch) -> ForwardContext:
    plan = attention.plan(batch, pool)
    return ForwardContext(
        attention=attention, pool=pool, plan=plan, slot_mapping=batch.slot_mapping
    )
