"""What plans look like, and what the scheduler makes of results; the runner is played by hand."""

from __future__ import annotations

import copy
from typing import Any, Literal

import pytest

from windlass.config import CacheConfig, SchedulerConfig
from windlass.engine.outputs import SequenceOutput
from windlass.engine.scheduler import Scheduler
from windlass.errors import ContextLengthError, RequestError
from windlass.request import Logprob, Request, SamplingParams
from windlass.step import StepPlan, StepResult
from windlass.testing.content_runner import ContentRunner

BLOCK_SIZE = 4


def make(
    *,
    num_blocks: int = 64,
    max_num_seqs: int = 4,
    budget: int = 16,
    policy: Literal["fcfs", "priority"] = "fcfs",
    caching: bool = True,
) -> Scheduler:
    runner = ContentRunner(
        num_blocks=num_blocks, block_size=BLOCK_SIZE, max_num_seqs=64, max_model_len=64
    )
    config = SchedulerConfig(
        max_num_seqs=max_num_seqs, max_num_batched_tokens=budget, policy=policy
    )
    cache = CacheConfig(enable_prefix_caching=caching)
    return Scheduler(config, cache, runner.info, lambda: 7.0)


def add(
    scheduler: Scheduler,
    name: str,
    prompt: int | list[int],
    *,
    priority: int = 0,
    eos: tuple[int, ...] = (),
    salt: str = "",
    **sampling: object,
) -> None:
    """Queue a request; a number stands for a prompt of that length which nobody shares."""
    tokens = prompt if isinstance(prompt, list) else [sum(name.encode()) % 500] * prompt
    request = Request(
        request_id=name,
        prompt_token_ids=tokens,
        sampling=SamplingParams(**sampling),  # type: ignore[arg-type]
        eos_token_ids=eos,
        priority=priority,
        cache_salt=salt,
    )
    scheduler.add(request)


def planned(scheduler: Scheduler) -> StepPlan:
    """Plan a step that must have something to do."""
    plan = scheduler.schedule()
    assert plan is not None
    return plan


def shape(plan: StepPlan) -> list[tuple[str, int, int]]:
    """(request, start, tokens) of each row."""
    return [(row.request_id, row.start, row.num_tokens) for row in plan.rows]


def finish(scheduler: Scheduler, plan: StepPlan, token: int = 5) -> list[SequenceOutput]:
    """Report `token` for every row that samples."""
    tokens = {row.request_id: token for row in plan.rows if row.samples}
    return scheduler.update(plan, StepResult(step_id=plan.step_id, tokens=tokens))


def test_prompt_is_cut_into_chunks_of_the_budget_and_samples_once() -> None:
    scheduler = make(budget=8)
    add(scheduler, "a", 20)
    plans = [planned(scheduler) for _ in range(3)]
    assert [shape(plan) for plan in plans] == [[("a", 0, 8)], [("a", 8, 8)], [("a", 16, 4)]]
    assert [plan.rows[0].samples for plan in plans] == [False, False, True]
    assert len(plans[0].new_rows[0].block_ids) == 5
    assert plans[1].new_rows == []


def test_decode_is_planned_while_its_token_is_in_flight() -> None:
    scheduler = make()
    add(scheduler, "a", 3)
    prefill, decode = planned(scheduler), planned(scheduler)
    assert decode.rows[0].is_decode
    assert (decode.rows[0].start, decode.rows[0].output_index) == (3, 1)
    assert [o.new_token_ids for o in finish(scheduler, prefill)] == [[5]]


def test_no_step_is_planned_beyond_the_length_limit() -> None:
    scheduler = make()
    add(scheduler, "a", 3, max_tokens=2)
    first, second = planned(scheduler), planned(scheduler)
    assert scheduler.schedule() is None
    assert finish(scheduler, first)[0].finish_reason is None
    assert finish(scheduler, second)[0].finish_reason == "length"
    assert not scheduler.has_work


def test_context_is_a_length_limit_too() -> None:
    scheduler = make(budget=64)
    add(scheduler, "a", 62, max_tokens=50)
    plans = [planned(scheduler), planned(scheduler)]
    assert scheduler.schedule() is None
    assert [finish(scheduler, plan)[0].finish_reason for plan in plans] == [None, "length"]


def test_decodes_come_first_then_running_prefills_then_admission() -> None:
    scheduler = make(budget=10)
    add(scheduler, "decodes", 4)
    finish(scheduler, planned(scheduler))
    add(scheduler, "prefills", 15)
    assert shape(planned(scheduler)) == [("decodes", 4, 1), ("prefills", 0, 9)]
    add(scheduler, "waits", 7)
    plan = planned(scheduler)
    assert shape(plan) == [("decodes", 5, 1), ("prefills", 9, 6), ("waits", 0, 3)]
    assert plan.num_tokens == 10


def test_budget_smaller_than_the_batch_serves_the_first_in_order() -> None:
    scheduler = make(budget=2)
    for name in "abc":
        add(scheduler, name, 1)
    finish(scheduler, planned(scheduler))
    assert shape(planned(scheduler)) == [("a", 1, 1), ("b", 1, 1)]


def test_rows_bound_admission_and_are_reused_after_an_end() -> None:
    scheduler = make(max_num_seqs=2)
    for name in "abc":
        add(scheduler, name, 2, max_tokens=1 if name == "a" else 9)
    plan = planned(scheduler)
    assert [new.row for new in plan.new_rows] == [0, 1]
    finish(scheduler, plan)
    plan = planned(scheduler)
    assert plan.freed_rows == [0]
    assert [(new.request_id, new.row) for new in plan.new_rows] == [("c", 0)]


def test_head_that_does_not_fit_is_not_overtaken() -> None:
    scheduler = make(num_blocks=6, budget=64)
    add(scheduler, "runs", 8)
    planned(scheduler)
    add(scheduler, "large", 16)
    add(scheduler, "small", 1)
    assert shape(planned(scheduler)) == [("runs", 8, 1)]


def test_smaller_priority_is_admitted_first_only_under_the_priority_policy() -> None:
    for policy, first in (("priority", "urgent"), ("fcfs", "early")):
        scheduler = make(max_num_seqs=1, policy=policy)  # type: ignore[arg-type]
        add(scheduler, "early", 1, priority=5)
        add(scheduler, "urgent", 1, priority=-5)
        assert shape(planned(scheduler)) == [(first, 0, 1)]


def test_newest_gives_up_its_blocks_and_comes_back_with_its_tokens() -> None:
    scheduler = make(num_blocks=5, budget=64, caching=False)
    add(scheduler, "old", 8, max_tokens=9)
    add(scheduler, "new", 7, max_tokens=9)
    finish(scheduler, planned(scheduler))
    plan = planned(scheduler)
    assert shape(plan) == [("old", 8, 1)]
    assert plan.freed_rows == [1]
    assert plan.new_blocks[0][:2] == (0, 2)
    assert scheduler.stats().num_preemptions == 1
    scheduler.abort(["old"])
    plan = planned(scheduler)
    assert plan.new_rows[0].token_ids[-1] == 5
    assert (plan.new_rows[0].prompt_len, plan.rows[0].output_index) == (7, 1)
    assert shape(plan) == [("new", 0, 8)]


def test_least_important_gives_up_its_blocks_under_the_priority_policy() -> None:
    scheduler = make(num_blocks=5, budget=64, policy="priority", caching=False)
    add(scheduler, "unimportant", 8, priority=9)
    add(scheduler, "important", 8, priority=1)
    finish(scheduler, planned(scheduler))
    assert shape(planned(scheduler)) == [("important", 8, 1)]


def test_token_in_flight_survives_preemption_and_delays_the_return() -> None:
    scheduler = make(num_blocks=5, budget=64, caching=False)
    add(scheduler, "old", 8, max_tokens=9)
    add(scheduler, "new", 8, max_tokens=9)
    prefill = planned(scheduler)
    decode = planned(scheduler)
    assert shape(decode) == [("old", 8, 1)]
    scheduler.abort(["old"])
    assert scheduler.schedule() is None
    outputs = finish(scheduler, prefill)
    assert [(o.request_id, o.new_token_ids) for o in outputs] == [("new", [5])]
    assert shape(planned(scheduler)) == [("new", 0, 9)]


def test_preempted_sequence_returns_only_with_room_to_grow() -> None:
    scheduler = make(num_blocks=5, budget=64, caching=False)
    add(scheduler, "grows", 4, max_tokens=40)
    add(scheduler, "ends", 4, max_tokens=2)
    add(scheduler, "waits", 5, max_tokens=40)
    for _ in range(2):
        finish(scheduler, planned(scheduler))
    assert scheduler.stats().num_preemptions == 1
    assert scheduler.blocks.num_free == 2
    assert shape(planned(scheduler)) == [("grows", 5, 1)]
    scheduler.abort(["grows"])
    assert shape(planned(scheduler)) == [("waits", 0, 6)]


def test_sequence_that_cannot_get_a_block_alone_ends_with_an_error() -> None:
    scheduler = make(num_blocks=4, budget=64)
    scheduler.blocks.allocate(1)
    add(scheduler, "a", 8)
    finish(scheduler, planned(scheduler))
    assert scheduler.schedule() is None
    (end,) = scheduler.take_ended()
    assert (end.finish_reason, end.error) == (
        "error",
        "The KV cache has no block left for this request.",
    )
    assert not scheduler.has_work


def test_prefix_is_shared_within_the_step_that_computes_it() -> None:
    scheduler = make(budget=64)
    prompt = list(range(9))
    add(scheduler, "first", prompt)
    add(scheduler, "second", [*prompt[:8], 99])
    plan = planned(scheduler)
    assert shape(plan) == [("first", 0, 9), ("second", 8, 1)]
    first, second = plan.new_rows
    assert second.position == 8
    assert first.block_ids[:2] == second.block_ids[:2]
    assert first.block_ids[2] != second.block_ids[2]
    outputs = finish(scheduler, plan)
    assert [o.num_cached_tokens for o in outputs] == [0, 8]
    stats = scheduler.stats()
    assert (stats.prefix_cache_queries, stats.prefix_cache_hits) == (18, 8)


def test_last_prompt_token_is_always_computed() -> None:
    scheduler = make(budget=64)
    for name in ("first", "second"):
        add(scheduler, name, list(range(8)), max_tokens=1)
        plan = planned(scheduler)
        finish(scheduler, plan)
    assert shape(plan) == [("second", 4, 4)]


def test_output_is_found_by_the_next_turn() -> None:
    scheduler = make(budget=64)
    add(scheduler, "turn", [1, 2, 3], max_tokens=6)
    for _ in range(6):
        finish(scheduler, planned(scheduler), token=8)
    add(scheduler, "next", [1, 2, 3, 8, 8, 8, 8, 8, 8, 4])
    assert shape(planned(scheduler)) == [("next", 8, 2)]


@pytest.mark.parametrize(
    ("caching", "salt"), [(False, ""), (True, "other")], ids=["caching off", "another salt"]
)
def test_prefix_is_not_shared(caching: bool, salt: str) -> None:
    scheduler = make(budget=64, caching=caching)
    add(scheduler, "first", list(range(9)))
    add(scheduler, "second", list(range(9)), salt=salt)
    assert shape(planned(scheduler)) == [("first", 0, 9), ("second", 0, 9)]


def test_prompt_logprobs_compute_the_whole_prompt_and_come_with_the_first_token() -> None:
    scheduler = make(budget=4)
    add(scheduler, "first", [1, 2, 3, 4, 5, 6])
    while scheduler.has_work:
        finish(scheduler, planned(scheduler))
    add(scheduler, "asks", [1, 2, 3, 4, 5, 6], prompt_logprobs=0, max_tokens=2)
    targets, delivered = [], []
    for _ in range(3):
        plan = planned(scheduler)
        (row,) = plan.rows
        targets.append(row.prompt_targets)
        tokens = {"asks": 7} if row.samples else {}
        logprobs = {"asks": [{token: Logprob(-1.0)} for token in row.prompt_targets or []]}
        result = StepResult(plan.step_id, tokens, prompt_logprobs=logprobs)
        delivered += [output.prompt_logprobs for output in scheduler.update(plan, result)]
    assert targets == [[2, 3, 4, 5], [6], None]
    assert delivered == [[None, *({t: Logprob(-1.0)} for t in (2, 3, 4, 5, 6))], None]


def test_prompt_logprobs_of_one_token_are_none() -> None:
    scheduler = make()
    add(scheduler, "asks", [1], prompt_logprobs=3)
    plan = planned(scheduler)
    assert plan.rows[0].prompt_targets is None
    assert finish(scheduler, plan)[0].prompt_logprobs == [None]


@pytest.mark.parametrize(
    ("sampling", "eos", "token", "expected"),
    [
        ({}, (5,), 5, ("stop", None)),
        ({"stop_token_ids": (6,)}, (5,), 6, ("stop", 6)),
        ({"stop_token_ids": (5,)}, (5,), 5, ("stop", None)),
        ({"stop_token_ids": (5,), "ignore_eos": True}, (5,), 5, ("stop", 5)),
        ({"ignore_eos": True}, (5,), 5, (None, None)),
        ({"ignore_eos": True, "max_tokens": 1}, (5,), 5, ("length", None)),
        ({"max_tokens": 1}, (5,), 5, ("stop", None)),
        ({"min_tokens": 1}, (5,), 5, (None, None)),
    ],
)
def test_first_token_ends_the_sequence(
    sampling: dict[str, Any],
    eos: tuple[int, ...],
    token: int,
    expected: tuple[str | None, int | None],
) -> None:
    scheduler = make()
    add(scheduler, "a", 3, eos=eos, **sampling)
    (output,) = finish(scheduler, planned(scheduler), token)
    assert (output.finish_reason, output.stop_reason) == expected
    assert output.new_token_ids == [token]


def test_runner_is_told_every_token_that_may_not_come_too_early() -> None:
    scheduler = make(max_num_seqs=2)
    add(scheduler, "both", 1, eos=(5,), stop_token_ids=(6,), min_tokens=2)
    add(scheduler, "ignores", 1, eos=(5,), stop_token_ids=(6,), ignore_eos=True)
    stops = {new.request_id: set(new.stop_token_ids) for new in planned(scheduler).new_rows}
    assert stops == {"both": {5, 6}, "ignores": {6}}


def test_token_computed_beyond_a_late_stop_is_dropped() -> None:
    scheduler = make()
    add(scheduler, "a", 3, eos=(5,))
    first, second = planned(scheduler), planned(scheduler)
    assert finish(scheduler, first, 5)[0].finish_reason == "stop"
    assert finish(scheduler, second, 6) == []


def test_late_result_does_not_reach_a_new_request_of_the_same_name() -> None:
    scheduler = make()
    add(scheduler, "a", 3)
    old = planned(scheduler)
    scheduler.abort(["a"])
    add(scheduler, "a", 2)
    new = planned(scheduler)
    assert finish(scheduler, old, 6) == []
    assert [o.new_token_ids for o in finish(scheduler, new, 7)] == [[7]]


def test_abort_frees_blocks_at_once_and_is_idempotent() -> None:
    scheduler = make()
    add(scheduler, "runs", 3)
    planned(scheduler)
    add(scheduler, "waits", 3)
    scheduler.abort(["runs", "waits", "runs", "unknown"])
    scheduler.abort(["runs"])
    ends = [(end.request_id, end.finish_reason) for end in scheduler.take_ended()]
    assert ends == [("runs", "abort"), ("waits", "abort")]
    assert scheduler.blocks.num_free == scheduler.blocks.capacity
    assert scheduler.take_ended() == []
    assert scheduler.schedule() is None


def test_bad_numbers_end_one_sequence_and_its_blocks_are_not_found() -> None:
    scheduler = make(budget=64)
    add(scheduler, "bad", [1] * 9)
    add(scheduler, "good", [2] * 9)
    plan = planned(scheduler)
    result = StepResult(plan.step_id, {"good": 3}, errors={"bad": "not finite"})
    outputs = {output.request_id: output for output in scheduler.update(plan, result)}
    assert (outputs["bad"].finish_reason, outputs["bad"].error) == ("error", "not finite")
    assert outputs["good"].new_token_ids == [3]
    add(scheduler, "again", [1] * 9)
    add(scheduler, "shares", [2] * 9)
    assert shape(planned(scheduler))[1:] == [("again", 0, 9), ("shares", 8, 1)]


def test_bad_numbers_behind_cached_blocks_are_computed_again_without_the_cache() -> None:
    scheduler = make(budget=64)
    add(scheduler, "first", [1] * 9, max_tokens=1)
    finish(scheduler, planned(scheduler))
    add(scheduler, "second", [1] * 9)
    for expected in ([("second", 8, 1)], [("second", 0, 9)]):
        plan = planned(scheduler)
        assert shape(plan) == expected
        result = StepResult(plan.step_id, {}, errors={"second": "not finite"})
        outputs = scheduler.update(plan, result)
    assert [output.finish_reason for output in outputs] == ["error"]


def test_bad_numbers_of_a_preempted_sequence_are_computed_again_without_the_cache() -> None:
    scheduler = make(num_blocks=5, budget=64)
    add(scheduler, "first", [1] * 8, max_tokens=1)
    finish(scheduler, planned(scheduler))
    add(scheduler, "old", [2] * 8)
    add(scheduler, "new", [1] * 7)
    prefill, decode = planned(scheduler), planned(scheduler)
    assert shape(prefill) == [("old", 0, 8), ("new", 4, 3)]
    assert shape(decode) == [("old", 8, 1)]
    result = StepResult(prefill.step_id, {"old": 3}, errors={"new": "not finite"})
    assert [output.request_id for output in scheduler.update(prefill, result)] == ["old"]
    scheduler.abort(["old"])
    assert shape(planned(scheduler)) == [("new", 0, 7)]


def test_row_that_brings_neither_token_nor_error_ends_with_an_error() -> None:
    scheduler = make()
    add(scheduler, "a", 3)
    plan = planned(scheduler)
    (output,) = scheduler.update(plan, StepResult(plan.step_id, {}))
    assert (output.finish_reason, output.error) == (
        "error",
        "The step brought no token for this request.",
    )


def test_requests_that_can_never_run_are_refused() -> None:
    scheduler = make()
    with pytest.raises(ContextLengthError):
        add(scheduler, "long", 64)
    add(scheduler, "a", 63)
    with pytest.raises(RequestError, match="'a' is in use"):
        add(scheduler, "a", 1)
    assert scheduler.stats().num_waiting == 1


def test_only_names_who_may_be_planned() -> None:
    scheduler = make(budget=64)
    for name in "abc":
        add(scheduler, name, 2)
    plan = scheduler.schedule(only={"b"})
    assert plan is not None
    assert shape(plan) == [("b", 0, 2)]
    finish(scheduler, plan)
    assert scheduler.schedule(only=set()) is None
    assert shape(planned(scheduler)) == [("b", 2, 1), ("a", 0, 2), ("c", 0, 2)]


def test_prefill_waits_when_decodes_use_the_whole_budget() -> None:
    scheduler = make(budget=2, policy="priority")
    for name in "ab":
        add(scheduler, name, 1)
    finish(scheduler, planned(scheduler))
    add(scheduler, "important", 9, priority=-1)
    plan = scheduler.schedule(only={"important"})
    assert plan is not None
    assert shape(plan) == [("important", 0, 2)]
    assert shape(planned(scheduler)) == [("a", 1, 1), ("b", 1, 1)]


def test_others_can_be_made_to_wait() -> None:
    scheduler = make(budget=64)
    for name in "abc":
        add(scheduler, name, 2)
    finish(scheduler, planned(scheduler))
    assert scheduler.preempt_others({"b"})
    assert not scheduler.preempt_others({"b"})
    plan = scheduler.schedule(only={"b"})
    assert plan is not None
    assert (shape(plan), plan.freed_rows) == ([("b", 2, 1)], [0, 2])
    assert scheduler.stats().num_waiting == 2
    assert scheduler.stats().num_preemptions == 0


def test_giving_up_steps_frees_everything_and_keeps_known_tokens() -> None:
    scheduler = make(budget=64)
    add(scheduler, "a", [1] * 9)
    finish(scheduler, planned(scheduler))
    planned(scheduler)
    planned(scheduler)
    scheduler.give_up_steps()
    assert scheduler.blocks.num_free == scheduler.blocks.capacity
    assert scheduler.blocks.num_cached == 0
    plan = planned(scheduler)
    assert (plan.new_rows[0].row, plan.freed_rows) == (0, [])
    assert plan.new_rows[0].token_ids == [*[1] * 9, 5]
    assert (shape(plan), plan.rows[0].output_index) == ([("a", 0, 10)], 1)


def test_plan_is_not_changed_by_what_follows() -> None:
    scheduler = make(budget=64)
    add(scheduler, "a", [1] * 4, max_tokens=9)
    plans = [planned(scheduler)]
    before = copy.deepcopy(plans[0])
    for _ in range(6):
        plans.append(planned(scheduler))
        finish(scheduler, plans[-2])
    assert plans[0] == before


def test_stats_count_tokens_blocks_and_queue() -> None:
    scheduler = make(num_blocks=11, max_num_seqs=1)
    add(scheduler, "a", 6)
    add(scheduler, "b", 3)
    finish(scheduler, planned(scheduler))
    finish(scheduler, planned(scheduler))
    stats = scheduler.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_waiting_tokens) == (1, 1, 3)
    assert (stats.num_blocks, stats.num_free_blocks, stats.kv_cache_usage) == (10, 8, 0.2)
    assert (stats.prompt_tokens, stats.generation_tokens) == (6, 2)
