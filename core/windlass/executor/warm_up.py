"""Steps that are run at load, so that no request pays for what a device prepares once.

A prompt, then a decode beside a prompt, then decodes alone, each with every kind of sampling. All
keys and values go to the null block.
"""

from __future__ import annotations

from collections.abc import Iterator

from windlass.request import SamplingParams
from windlass.step import NewRow, ScheduledRow, StepPlan

_SAMPLING = (
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=1.0, seed=0),
    SamplingParams(temperature=1.0, top_k=20, top_p=0.95, min_p=0.01, seed=0),
)
_CHUNK = [0] * 4
WARM_UP_TOKENS = len(_CHUNK) + 2
"""The longest sequence of these steps."""


def warm_up_plans(max_num_seqs: int) -> Iterator[StepPlan]:
    """Plans for a runner whose rows are all free; rows 0 and 1 are left in use."""
    for number, sampling in enumerate(_SAMPLING):
        first = NewRow(0, "warm-up 0", sampling, 0, _CHUNK, len(_CHUNK), [0])
        yield StepPlan(3 * number, [_prefill(first)], [first])
        if max_num_seqs == 1:
            yield StepPlan(3 * number + 1, [_decode(first, 0)])
            continue
        second = NewRow(1, "warm-up 1", sampling, 0, _CHUNK, len(_CHUNK), [0])
        yield StepPlan(3 * number + 1, [_decode(first, 0), _prefill(second)], [second])
        yield StepPlan(3 * number + 2, [_decode(first, 1), _decode(second, 0)])


def _prefill(new: NewRow) -> ScheduledRow:
    tokens = new.token_ids
    return ScheduledRow(new.row, new.request_id, 0, len(tokens), tokens, True, 0)


def _decode(new: NewRow, index: int) -> ScheduledRow:
    """The decode that computes output token `index`."""
    start = len(new.token_ids) + index
    return ScheduledRow(new.row, new.request_id, start, 1, [], True, index + 1)
