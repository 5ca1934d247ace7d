"""The content-checking runner must notice what an engine can do wrong."""

from __future__ import annotations

import pytest

from windlass.request import SamplingParams
from windlass.step import NewRow, ScheduledRow, StepPlan
from windlass.testing.content_runner import ContentRunner, Faults, StepFailedError

PROMPT = [3, 1, 4, 1, 5, 9]


def new_row(*, row: int = 0, name: str = "a", blocks: tuple[int, ...] = (1, 2)) -> NewRow:
    return NewRow(
        row=row,
        request_id=name,
        sampling=SamplingParams(logprobs=1, prompt_logprobs=0),
        position=0,
        token_ids=list(PROMPT),
        prompt_len=len(PROMPT),
        block_ids=list(blocks),
    )


def chunk(start: int, end: int, *, row: int = 0, name: str = "a") -> ScheduledRow:
    tokens = PROMPT[start:end]
    return ScheduledRow(row, name, start, len(tokens), tokens, end == len(PROMPT), 0)


def decode(position: int, index: int, *, row: int = 0, name: str = "a") -> ScheduledRow:
    return ScheduledRow(row, name, position, 1, [], True, index)


def test_correct_plans_leave_no_violation_and_repeat_their_tokens() -> None:
    tokens = []
    for chunks in ([chunk(0, 6)], [chunk(0, 2), chunk(2, 6)]):
        runner = ContentRunner(block_size=4)
        plans = [StepPlan(0, [chunks[0]], new_rows=[new_row()])]
        plans += [StepPlan(i, [row]) for i, row in enumerate([*chunks[1:], decode(6, 1)], 1)]
        handles = [runner.launch(plan) for plan in plans]
        results = [handle.collect() for handle in handles]
        assert runner.violations == []
        tokens.append([result.tokens["a"] for result in results if result.tokens])
    assert tokens[0] == tokens[1]
    assert len(tokens[0]) == 2


@pytest.mark.parametrize(
    ("plan", "violation"),
    [
        (StepPlan(1, [decode(6, 2)]), "output 1 is misnumbered"),
        (StepPlan(1, [decode(5, 1)]), "starts at 5, not 6"),
        (StepPlan(1, [decode(6, 1, name="b")]), "its row runs another request"),
        (StepPlan(1, [ScheduledRow(0, "a", 6, 1, [0], True, 1)]), "tokens it does not have"),
        (StepPlan(1, [ScheduledRow(0, "a", 6, 1, [], False, 1)]), "samples at the wrong place"),
        (StepPlan(1, [decode(6, 1)], new_blocks=[(0, 3, 9)]), "block 3 is not the next"),
        (StepPlan(1, [decode(6, 1)], freed_rows=[1]), "row 1 was freed twice"),
        (StepPlan(1, [decode(6, 1)], new_rows=[new_row()]), "row 0 is in use"),
        (
            StepPlan(
                1,
                [decode(6, 1), chunk(0, 6, row=1, name="b")],
                new_rows=[new_row(row=1, name="b", blocks=(2, 3))],
            ),
            "is written twice in one step",
        ),
        (
            StepPlan(
                1,
                [chunk(0, 6, row=1, name="b"), decode(6, 1)],
                new_rows=[new_row(row=1, name="b", blocks=(5, 6))],
            ),
            "a prefill stands before a decode",
        ),
        (
            StepPlan(
                1,
                [chunk(0, 6, row=1, name="b")],
                new_rows=[new_row(row=1, name="b", blocks=(5,))],
            ),
            "position 4 has no block",
        ),
    ],
)
def test_wrong_plan_is_noted(plan: StepPlan, violation: str) -> None:
    runner = ContentRunner(block_size=4)
    runner.launch(StepPlan(0, [chunk(0, 6)], new_rows=[new_row()])).collect()
    runner.launch(plan).collect()
    assert any(violation in found for found in runner.violations), runner.violations


def test_slot_that_was_overwritten_is_noted_and_changes_the_token() -> None:
    tokens = []
    for stolen in (5, 1):
        runner = ContentRunner(block_size=4)
        runner.launch(StepPlan(0, [chunk(0, 6)], new_rows=[new_row()])).collect()
        thief = new_row(row=1, name="b", blocks=(stolen, 6))
        thief.token_ids = [8] * 6
        row = ScheduledRow(1, "b", 0, 6, [8] * 6, True, 0)
        runner.launch(StepPlan(1, [row], new_rows=[thief])).collect()
        tokens.append(runner.launch(StepPlan(2, [decode(6, 1)])).collect().tokens["a"])
        assert bool(runner.violations) == (stolen == 1)
    assert tokens[0] != tokens[1]


def test_steps_collected_out_of_order_are_noted() -> None:
    runner = ContentRunner(block_size=4)
    runner.launch(StepPlan(0, [chunk(0, 2)], new_rows=[new_row()]))
    second = runner.launch(StepPlan(1, [chunk(2, 6)]))
    with pytest.raises(IndexError):
        second.collect()
    assert runner.violations == ["steps were collected out of order, or twice"]


def test_failed_step_fails_all_that_follow_until_reset() -> None:
    runner = ContentRunner(block_size=4, faults=Faults(steps={0}))
    handles = [
        runner.launch(StepPlan(0, [chunk(0, 2)], new_rows=[new_row()])),
        runner.launch(StepPlan(1, [chunk(2, 6)])),
    ]
    for handle in handles:
        with pytest.raises(StepFailedError):
            handle.collect()
    runner.reset()
    result = runner.launch(StepPlan(2, [chunk(0, 6)], new_rows=[new_row()])).collect()
    assert list(result.tokens) == ["a"]
    assert runner.violations == []


def test_reset_with_a_step_in_flight_is_noted() -> None:
    runner = ContentRunner(block_size=4)
    runner.launch(StepPlan(0, [chunk(0, 6)], new_rows=[new_row()]))
    runner.reset()
    assert runner.violations == ["reset before every launched step was collected"]


def test_bad_numbers_spread_through_shared_slots() -> None:
    runner = ContentRunner(block_size=4, faults=Faults(not_finite={("a", 0)}))
    runner.launch(StepPlan(0, [chunk(0, 6)], new_rows=[new_row()])).collect()
    reader = new_row(row=1, name="b", blocks=(1, 7))
    reader.position = 4
    row = chunk(4, 6, row=1, name="b")
    result = runner.launch(StepPlan(1, [row], new_rows=[reader])).collect()
    assert result.errors == {"b": "the numbers are not finite"}
    assert result.tokens == {}
