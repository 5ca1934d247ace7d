"""What an engine looks like inside at one moment: its sequences and its KV blocks, bounded.

A view is taken between two steps, only when somebody asks, in time linear in what it lists. It
holds numbers and request ids, never a token.
"""

from __future__ import annotations

from itertools import islice
from typing import Literal

import msgspec

from windlass.engine.outputs import EngineStats
from windlass.engine.scheduler import Scheduler
from windlass.engine.sequence import Sequence, SequenceStatus
from windlass.engine.waiting_queue import WaitingQueue

MAX_SEQUENCES = 256
"""Sequences listed at most: first those that run, then those that wait, each in their order."""
MAX_BLOCKS = 4096
"""Blocks listed at most, those with the smallest ids, which are handed out first."""
MAX_BLOCK_IDS = 16384
"""Entries of block tables listed at most, over all sequences."""


class SequenceView(msgspec.Struct, kw_only=True, gc=False):
    """One unfinished sequence.

    `num_computed_tokens` counts the tokens whose KV is computed or on its way,
    `num_cached_tokens` those of them that were found in the prefix cache at the first admission.
    `age` is the time since arrival in seconds. `num_blocks` is the length of its block table;
    `block_ids` is that table as far as the bounds of a view allow.
    """

    request_id: str
    state: Literal["running", "waiting"]
    num_prompt_tokens: int
    num_output_tokens: int
    num_computed_tokens: int
    num_cached_tokens: int
    num_preemptions: int
    age: float
    num_blocks: int
    block_ids: list[int]


class EngineView(msgspec.Struct, kw_only=True):
    """The engine between two steps.

    `blocks[i]` tells about the block with the id i + 1: how many block tables hold it, 0 when it
    is free and empty, -1 when it is free and still holds a prefix that can be found. Of
    `stats.num_blocks` blocks at most `MAX_BLOCKS` are told about; `num_cached_blocks` counts all
    blocks, free or held, in which a prefix can be found. `sequences_left_out` are not listed.
    """

    stats: EngineStats
    block_size: int
    num_cached_blocks: int
    blocks: list[int]
    sequences: list[SequenceView]
    sequences_left_out: int


def take_view(scheduler: Scheduler, stats: EngineStats, now: float) -> EngineView:
    """Look at a scheduler between two steps; `now` is a time of its clock in seconds."""
    table, blocks = scheduler.sequences, scheduler.blocks
    views = list_sequences(table.running, table.waiting, now)
    return EngineView(
        stats=stats,
        block_size=blocks.block_size,
        num_cached_blocks=blocks.num_cached,
        blocks=blocks.snapshot(MAX_BLOCKS),
        sequences=views,
        sequences_left_out=len(table.by_id) - len(views),
    )


def list_sequences(
    running: list[Sequence], waiting: WaitingQueue, now: float
) -> list[SequenceView]:
    """Describe at most `MAX_SEQUENCES` sequences at the time `now`."""
    listed = running[:MAX_SEQUENCES]
    listed += waiting.first(MAX_SEQUENCES - len(listed))
    views: list[SequenceView] = []
    room = MAX_BLOCK_IDS
    for seq in listed:
        shown = (block for block in seq.block_ids if block <= MAX_BLOCKS)
        views.append(_view_of(seq, list(islice(shown, room)), now))
        room -= len(views[-1].block_ids)
    return views


def _view_of(seq: Sequence, block_ids: list[int], now: float) -> SequenceView:
    return SequenceView(
        request_id=seq.request_id,
        state="running" if seq.status is SequenceStatus.RUNNING else "waiting",
        num_prompt_tokens=seq.prompt_len,
        num_output_tokens=seq.num_outputs,
        num_computed_tokens=seq.num_computed_tokens,
        num_cached_tokens=seq.num_cached_tokens,
        num_preemptions=seq.num_preemptions,
        age=max(0.0, now - seq.arrival_time),
        num_blocks=len(seq.block_ids),
        block_ids=block_ids,
    )
