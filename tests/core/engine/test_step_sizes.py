"""Steps counted by how many tokens they had."""

from __future__ import annotations

from windlass.engine.step_sizes import BOUNDS, StepSizes


def test_a_step_counts_in_the_range_that_it_ends_in() -> None:
    sizes = StepSizes()
    for num_tokens in (1, 2, 8, 9, 16384, 16385):
        sizes.add(num_tokens)
    assert sizes.tokens == 1 + 2 + 8 + 9 + 16384 + 16385
    ranges = dict(zip((*BOUNDS, "more"), sizes.counts, strict=True))
    assert {bound: count for bound, count in ranges.items() if count} == {
        1: 1,
        8: 2,
        16: 1,
        16384: 1,
        "more": 1,
    }
