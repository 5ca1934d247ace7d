"""Reads of the fake accelerator's KV cache: each slot at its position and behind its prefix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from windlass.backend import AttentionParams, KVPool
from windlass.testing.fake.backend import FakeBackend
from windlass.testing.fake.slot_records import KVReadError, KVWriteError
from windlass.testing.paged_step import LAYER, PagedStep, build_step

PARAMS = AttentionParams(scale=0.25)
LENS = [33, 20, 7]


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


def read(backend: FakeBackend, step: PagedStep) -> torch.Tensor:
    """Run attention over the step, and wait."""
    out = step.run(backend.attention, PARAMS)
    return out.cpu()


def filled(backend: FakeBackend) -> PagedStep:
    """Three sequences in permuted blocks, each read once: so their order is known."""
    step = build_step(backend, query_lens=[1, 1, 1], seq_lens=LENS)
    read(backend, step)
    return step


def tables_of(step: PagedStep, change: Callable[[torch.Tensor], None]) -> PagedStep:
    """The step over another block table."""
    table = step.batch.block_table.clone()
    change(table)
    return replace(step, batch=replace(step.batch, block_table=table))


def test_a_right_read_is_right_again_and_by_others(backend: FakeBackend) -> None:
    step = filled(backend)
    expected = step.expected(PARAMS)[0].cpu()
    assert torch.allclose(read(backend, step), expected, atol=1e-5)

    def share(table: torch.Tensor) -> None:
        table[2].copy_(table[0])  # as long as row 2 is, row 0's prefix

    read(backend, tables_of(step, share))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[0].copy_(t[0].flip(0)), "row 0, position 0: .* holds position"),
        (lambda t: t[0, 1:2].copy_(t[1, 1:2]), "row 0, position 16: .* another prefix"),
        (lambda t: t[1, 1].fill_(0), "row 1, position 16: .* the null block"),
    ],
)
def test_a_wrong_block_is_seen(
    backend: FakeBackend, change: Callable[[torch.Tensor], None], message: str
) -> None:
    step = filled(backend)
    with pytest.raises(KVReadError, match=message):
        read(backend, tables_of(step, change))


def test_a_freed_block_is_nan_and_an_error(backend: FakeBackend) -> None:
    step = filled(backend)
    block = int(step.batch.block_table[1, 0])
    backend.records.free(step.pool, [block])
    assert bool(step.pool.keys[LAYER][block].isnan().all())
    with pytest.raises(KVReadError, match=rf"row 1, position 0: .*block {block}\) was freed"):
        read(backend, step)


def test_bytes_that_nobody_wrote_are_seen(backend: FakeBackend) -> None:
    step = filled(backend)
    block = int(step.batch.block_table[0, 1])
    step.pool.values[LAYER][block, 3] += 1
    with pytest.raises(KVReadError, match=r"position 19: .* other bytes than were written"):
        read(backend, step)


def test_a_slot_is_written_once_in_a_step(backend: FakeBackend) -> None:
    step = filled(backend)
    key = torch.zeros(2, 2, 16, device=backend.device.torch_device)
    slots = torch.tensor([20, 20], device=key.device)
    backend.attention.write_kv(step.pool, LAYER, key, key, slots)
    with pytest.raises(KVWriteError, match=r"slot 20 .* twice"):
        backend.device.synchronize()


@pytest.mark.parametrize("waits", [True, False])
def test_blocks_come_back_from_the_host_once_their_event_is_reached(
    backend: FakeBackend, waits: bool
) -> None:
    backend.machine.configure(seed=1, haste=0.0)
    device, allocator = backend.device, backend.allocator
    step = filled(backend)
    pool = step.pool
    buffer = allocator.host(pool.buffer.nbytes, pinned=True)
    host = KVPool.carve(buffer, pool.spec, pool.layout, pool.num_layers, pool.num_blocks)
    used = sorted(set(step.batch.block_table.flatten().tolist()) - {0})
    pairs = torch.tensor([[block, block] for block in used])
    stream = device.stream()
    allocator.swap(pool, host, pairs, stream).synchronize()
    backend.records.free(pool, used)
    event = allocator.swap(host, pool, pairs, stream)
    if waits:
        device.current_stream().wait_event(event)
        assert torch.allclose(read(backend, step), step.expected(PARAMS)[0].cpu(), atol=1e-5)
        return
    with pytest.raises(KVReadError):
        read(backend, step)
