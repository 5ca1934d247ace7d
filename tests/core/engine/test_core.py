"""The step loop on a runner that checks every KV slot it reads."""

from __future__ import annotations

import weakref

import pytest

from windlass.testing.content_runner import Faults
from windlass.testing.engine_harness import EngineHarness, generate_alone


def prompt(seed: int, length: int) -> list[int]:
    """A prompt that differs from its first token on."""
    return [(seed * 31 + i * i) % 512 for i in range(length)]


def test_one_step_is_in_flight_while_the_next_is_launched() -> None:
    harness = EngineHarness()
    harness.add("a", prompt(1, 3), max_tokens=3)
    launched, news = [], []
    while harness.engine.has_work:
        news.append(sum(len(output.new_token_ids) for output in harness.step()))
        launched.append(harness.runner.num_launches)
    assert launched == [1, 2, 3, 3]
    assert news == [0, 1, 1, 1]


@pytest.mark.parametrize("budget", [1, 3, 7, 64])
def test_tokens_do_not_depend_on_chunking_or_company(budget: int) -> None:
    harness = EngineHarness(max_num_batched_tokens=budget)
    for i in range(12):
        harness.add(f"r{i}", prompt(i, 1 + 3 * i), max_tokens=1 + i, seed=i)
    generations = harness.run()
    for i in range(12):
        alone = generate_alone(prompt(i, 1 + 3 * i), max_tokens=1 + i, seed=i)
        assert generations[f"r{i}"].token_ids == alone.token_ids
        assert generations[f"r{i}"].finish_reason == "length"


@pytest.mark.parametrize("caching", [True, False])
def test_tokens_do_not_depend_on_preemption(caching: bool) -> None:
    harness = EngineHarness(num_blocks=12, enable_prefix_caching=caching)
    for i in range(8):
        harness.add(f"r{i}", prompt(i, 6), max_tokens=20)
    generations = harness.run()
    assert harness.engine.stats().num_preemptions > 0
    for i in range(8):
        alone = generate_alone(prompt(i, 6), max_tokens=20)
        assert generations[f"r{i}"].token_ids == alone.token_ids


def test_tokens_do_not_depend_on_cached_prefixes() -> None:
    harness = EngineHarness()
    shared = prompt(0, 21)
    for i in range(10):
        harness.add(f"r{i}", [*shared, i], max_tokens=5)
    generations = harness.run()
    assert generations["r9"].num_cached_tokens == 20
    for i in range(10):
        alone = generate_alone([*shared, i], max_tokens=5)
        assert generations[f"r{i}"].token_ids == alone.token_ids


def test_logprobs_run_beside_tokens_and_prompt_logprobs_come_once() -> None:
    harness = EngineHarness(max_num_batched_tokens=5, num_blocks=14)
    for i in range(4):
        harness.add(f"r{i}", prompt(i, 12), max_tokens=9, logprobs=1, prompt_logprobs=2)
    generations = harness.run()
    for i in range(4):
        alone = generate_alone(prompt(i, 12), max_tokens=9, logprobs=1, prompt_logprobs=2)
        got = generations[f"r{i}"]
        assert (got.token_ids, got.logprobs) == (alone.token_ids, alone.logprobs)
        assert got.prompt_logprobs == alone.prompt_logprobs
        assert len(got.prompt_logprobs or []) == 12
        assert [next(iter(entry)) for entry in got.logprobs] == got.token_ids


def test_stop_token_ends_at_the_token_and_min_tokens_holds_it_off() -> None:
    alone = generate_alone(prompt(3, 5), max_tokens=20)
    stop = alone.token_ids[4]
    harness = EngineHarness()
    harness.add("stops", prompt(3, 5), max_tokens=20, stop_token_ids=(stop,))
    harness.add("longer", prompt(3, 5), max_tokens=20, stop_token_ids=(stop,), min_tokens=10)
    harness.add("eos", prompt(3, 5), max_tokens=20, eos=(stop,))
    generations = harness.run()
    assert generations["stops"].token_ids == alone.token_ids[:5]
    assert generations["stops"].stop_reason == stop
    assert generations["eos"].token_ids == alone.token_ids[:5]
    assert (generations["eos"].finish_reason, generations["eos"].stop_reason) == ("stop", None)
    assert stop not in generations["longer"].token_ids[:10]
    assert len(generations["longer"].token_ids) > 10


def test_aborted_neighbours_do_not_change_tokens_whenever_they_leave() -> None:
    for leaves_after in range(8):
        harness = EngineHarness(num_blocks=16, max_num_batched_tokens=9)
        for i in range(6):
            harness.add(f"r{i}", [*prompt(0, 9), i], max_tokens=12)
        for _ in range(leaves_after):
            harness.step()
        harness.engine.abort(["r0", "r3", "r5", "r3"])
        generations = harness.run()
        reasons = [generations[f"r{i}"].finish_reason for i in range(6)]
        assert reasons == ["abort", "length", "length", "abort", "length", "abort"]
        for i in (1, 2, 4):
            alone = generate_alone([*prompt(0, 9), i], max_tokens=12)
            assert generations[f"r{i}"].token_ids == alone.token_ids


def test_end_of_an_aborted_request_is_reported_without_another_step() -> None:
    harness = EngineHarness()
    harness.add("a", prompt(1, 4))
    harness.engine.abort(["a"])
    assert harness.engine.has_work
    (end,) = harness.step()
    assert (end.finish_reason, end.new_token_ids) == ("abort", [])
    assert not harness.engine.has_work
    assert harness.runner.num_launches == 0


def test_metrics_tell_when_a_request_queued_started_and_ended() -> None:
    harness = EngineHarness(max_num_seqs=1)
    harness.add("first", prompt(1, 4), max_tokens=3)
    harness.add("second", prompt(2, 4), max_tokens=1)
    generations = harness.run()
    first, second = generations["first"].metrics, generations["second"].metrics
    assert first is not None
    assert second is not None
    assert (first.queue_time, first.time_to_first_token, first.total_time) == (1.0, 2.0, 4.0)
    assert second.queue_time == first.total_time + 1.0
    assert second.total_time == second.time_to_first_token > second.queue_time
    assert (first.arrival_time, first.num_preemptions) == (0.0, 0)


def test_metrics_of_a_request_that_never_started() -> None:
    harness = EngineHarness()
    harness.now = 3.0
    harness.add("a", prompt(1, 4))
    harness.now = 8.0
    harness.engine.abort(["a"])
    harness.run()
    metrics = harness.generations["a"].metrics
    assert metrics is not None
    assert (metrics.queue_time, metrics.time_to_first_token, metrics.total_time) == (5.0, 0.0, 5.0)


def test_stats_tell_of_the_last_step() -> None:
    harness = EngineHarness()
    harness.add("a", prompt(1, 10), max_tokens=3)
    harness.run()
    stats = harness.engine.stats()
    assert (stats.num_steps, stats.last_step_tokens, stats.last_step_end) == (3, 1, harness.now)
    assert (stats.prompt_tokens, stats.generation_tokens) == (10, 3)
    assert stats is not harness.engine.stats()


def test_reset_of_the_prefix_cache_while_running_changes_no_token() -> None:
    harness = EngineHarness()
    for i in range(4):
        harness.add(f"r{i}", [*prompt(0, 10), i], max_tokens=10)
    for _ in range(4):
        harness.step()
        assert harness.engine.reset_prefix_cache()
    harness.add("late", [*prompt(0, 10), 0], max_tokens=10)
    generations = harness.run()
    assert generations["late"].num_cached_tokens == 0
    assert generations["late"].token_ids == generations["r0"].token_ids
    alone = generate_alone([*prompt(0, 10), 0], max_tokens=10)
    assert generations["r0"].token_ids == alone.token_ids


def test_nothing_keeps_an_ended_sequence_alive() -> None:
    harness = EngineHarness(faults=Faults(steps={4}))
    for i in range(6):
        harness.add(f"r{i}", prompt(i, 6), max_tokens=6)
    harness.step()
    sequences = [weakref.ref(seq) for seq in harness.engine.scheduler.sequences.by_id.values()]
    harness.engine.abort(["r2"])
    harness.run()
    assert len(sequences) == 6
    assert [ref() for ref in sequences] == [None] * 6


def test_request_that_fills_the_whole_cache_ends_by_length() -> None:
    harness = EngineHarness(num_blocks=5, block_size=4)
    harness.add("a", prompt(1, 6), max_tokens=100)
    harness.add("b", prompt(2, 6), max_tokens=100)
    generations = harness.run()
    for name in "ab":
        assert generations[name].finish_reason == "length"
        assert len(generations[name].token_ids) == 4 * 4 + 1 - 6
