"""Which texts are computed together: similar lengths, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Iterable

from windlass.engine.sequence import Sequence

LAUNCH_TOKENS = 256
"""A batch of its own costs about as much as this many tokens of padding."""


def similar_lengths(sequences: Iterable[Sequence], token_budget: int) -> list[list[Sequence]]:
    """Split into batches, shortest texts first.

    A batch is padded to its longest text. It grows while that adds fewer than `LAUNCH_TOKENS`
    tokens of padding and the whole stays within `token_budget`; one text may be longer than that.
    """
    batches: list[list[Sequence]] = []
    longest = 0
    for seq in sorted(sequences, key=lambda seq: seq.prompt_len):
        batch = batches[-1] if batches else []
        padding = (seq.prompt_len - longest) * len(batch)
        fits = (len(batch) + 1) * seq.prompt_len <= token_budget
        if batch and fits and padding < LAUNCH_TOKENS:
            batch.append(seq)
        else:
            batches.append([seq])
        longest = seq.prompt_len
    return batches
