"""Steps that raise, numbers that are not finite: only who is guilty may notice."""

from __future__ import annotations

import math

import pytest

from windlass.config import EngineConfig, ModelConfig
from windlass.engine.core import EngineCore
from windlass.errors import EngineDeadError
from windlass.request import Request, SamplingParams
from windlass.step import StepHandle, StepPlan, StepResult
from windlass.testing.content_runner import ContentRunner, Faults
from windlass.testing.engine_harness import EngineHarness, Generation, generate_alone

SHARED = [7, 7, 7, 7, 8, 8, 8, 8]


def prompts(count: int) -> dict[str, list[int]]:
    """Prompts of mixed length, every second one behind a shared prefix."""
    return {
        f"r{i}": [*(SHARED if i % 2 else []), *((i * 37 + k) % 500 for k in range(1 + i % 7))]
        for i in range(count)
    }


ALONE = {
    name: generate_alone(tokens, max_tokens=6).token_ids for name, tokens in prompts(32).items()
}


def batch(count: int, faults: Faults, **shape: int) -> EngineHarness:
    """An engine with `count` requests of six tokens."""
    harness = EngineHarness(
        **{"num_blocks": 256, "max_num_seqs": 32, "max_num_batched_tokens": 512, **shape},  # type: ignore[arg-type]
        faults=faults,
    )
    for name, tokens in prompts(count).items():
        harness.add(name, tokens, max_tokens=6)
    return harness


def failed(generations: dict[str, Generation]) -> set[str]:
    """Who ended with an error; everyone else must have the tokens it has alone."""
    for name, generation in generations.items():
        if generation.finish_reason != "error":
            assert generation.finish_reason == "length"
            assert generation.token_ids == ALONE[name]
    return {name for name, g in generations.items() if g.finish_reason == "error"}


def steps_without_faults(count: int) -> int:
    harness = batch(count, Faults())
    harness.run()
    return harness.runner.num_launches


@pytest.mark.parametrize("at_launch", [False, True], ids=["at collect", "at launch"])
@pytest.mark.parametrize("step", range(8))
def test_passing_fault_fails_nobody(step: int, at_launch: bool) -> None:
    harness = batch(12, Faults(steps={step}, at_launch=at_launch))
    assert failed(harness.run()) == set()
    assert harness.runner.num_resets == (1 if step < steps_without_faults(12) else 0)


@pytest.mark.parametrize("at_launch", [False, True], ids=["at collect", "at launch"])
@pytest.mark.parametrize("guilty", ["r0", "r13", "r31"])
def test_poisonous_request_alone_fails_in_a_batch_of_32(guilty: str, at_launch: bool) -> None:
    harness = batch(32, Faults(poison={guilty}, at_launch=at_launch))
    assert failed(harness.run()) == {guilty}
    error = harness.generations[guilty].error
    assert error == "This request made a model step fail (StepFailedError)."
    extra = harness.runner.num_launches - steps_without_faults(32)
    assert extra <= 2 * math.log2(32) + 3


def test_request_that_turns_poisonous_while_it_runs_keeps_its_tokens() -> None:
    harness = batch(8, Faults())
    for _ in range(3):
        harness.step()
    harness.runner.faults.poison.add("r5")
    assert failed(harness.run()) == {"r5"}
    tokens = harness.generations["r5"].token_ids
    assert tokens == ALONE["r5"][: len(tokens)]
    assert 0 < len(tokens) < 6


def test_several_poisonous_requests_fail_and_nobody_else() -> None:
    harness = batch(24, Faults(poison={"r1", "r2", "r17", "r23"}))
    assert failed(harness.run()) == {"r1", "r2", "r17", "r23"}
    assert harness.runner.num_launches <= steps_without_faults(24) + 4 * (2 * math.log2(24) + 3)


def test_poison_is_found_when_prompts_are_computed_in_chunks_and_blocks_are_few() -> None:
    harness = batch(16, Faults(poison={"r9"}), num_blocks=14, max_num_batched_tokens=5)
    assert failed(harness.run()) == {"r9"}


def test_poisonous_request_alone_in_the_engine_fails() -> None:
    harness = batch(1, Faults(poison={"r0"}))
    assert failed(harness.run()) == {"r0"}
    assert harness.runner.num_launches <= 3


def test_abort_of_the_poisonous_request_before_its_step_is_collected() -> None:
    harness = batch(1, Faults(poison={"r0"}))
    harness.step()
    harness.engine.abort(["r0"])
    harness.run()
    assert harness.generations["r0"].finish_reason == "abort"


def test_every_step_fails_once_in_turn() -> None:
    harness = batch(6, Faults(steps=set(range(1, 200, 3))))
    assert failed(harness.run()) == set()


def test_runner_that_always_fails_ends_every_request_with_an_error() -> None:
    harness = batch(9, Faults(max_rows=0))
    assert failed(harness.run()) == set(prompts(9))


def test_batch_that_fails_only_together_is_made_smaller() -> None:
    harness = batch(16, Faults(max_rows=5))
    assert failed(harness.run()) == set()
    assert harness.runner.num_resets <= 8
    assert max(len(plan.rows) for plan in harness.plans[-12:]) <= 5


def test_smaller_batch_grows_again_when_steps_go_well() -> None:
    harness = batch(16, Faults(max_rows=5))
    harness.run()
    harness.runner.faults.max_rows = None
    for i in range(90):
        harness.add(f"late{i}", [i, 1], max_tokens=30)
    harness.run()
    assert max(len(plan.rows) for plan in harness.plans) == 32


@pytest.mark.parametrize("output_index", [0, 3])
def test_row_with_bad_numbers_fails_alone(output_index: int) -> None:
    harness = batch(16, Faults(not_finite={("r6", output_index)}))
    assert failed(harness.run()) == {"r6"}
    assert harness.generations["r6"].token_ids == ALONE["r6"][:output_index]
    assert harness.runner.num_resets == 0


def test_bad_numbers_in_shared_blocks_do_not_spread() -> None:
    harness = batch(16, Faults(not_finite={("r1", 0)}))
    assert failed(harness.run()) == {"r1"}
    assert harness.generations["r3"].num_cached_tokens == 8
    harness.add("again", prompts(4)["r3"], max_tokens=6)
    harness.run()
    assert harness.generations["again"].token_ids == ALONE["r3"]


def test_bad_blocks_of_a_request_that_left_before_it_sampled_are_not_trusted() -> None:
    harness = EngineHarness(max_num_batched_tokens=8, faults=Faults(not_finite={("bad", 0)}))
    harness.add("bad", [*SHARED, *range(20)])
    harness.step()
    harness.add("good", [*SHARED, 9], max_tokens=6)
    harness.step()
    harness.engine.abort(["bad"])
    generations = harness.run()
    assert generations["good"].num_cached_tokens == 8
    assert generations["good"].token_ids == generate_alone([*SHARED, 9], max_tokens=6).token_ids


def test_suspect_gets_the_blocks_of_those_who_passed() -> None:
    harness = EngineHarness(num_blocks=8, max_num_batched_tokens=4, enable_prefix_caching=False)
    harness.add("innocent", [1] * 10, max_tokens=12)
    harness.add("guilty", [2] * 13, max_tokens=12)
    for _ in range(4):
        harness.step()
    assert harness.engine.stats().num_running == 2
    harness.runner.faults.poison.add("guilty")
    generations = harness.run()
    assert generations["guilty"].finish_reason == "error"
    alone = generate_alone([1] * 10, max_tokens=12)
    assert generations["innocent"].token_ids == alone.token_ids


class _DeadRunner(ContentRunner):
    """Its device is gone from some launch on; `lost_at_launch` says where that is noticed."""

    dies_at = 0
    lost_at_launch = False

    def launch(self, plan: StepPlan) -> StepHandle:
        if self.lost_at_launch and self.num_launches >= self.dies_at:
            raise EngineDeadError("the device is gone")
        return super().launch(plan)

    def _run(self, plan: StepPlan) -> StepResult:
        if plan.step_id >= self.dies_at:
            raise EngineDeadError("the device is gone")
        return super()._run(plan)


class _StuckRunner(ContentRunner):
    """Cannot be reset."""

    def reset(self) -> None:
        raise OSError("no")


def engine_on(runner: ContentRunner) -> EngineCore:
    config = EngineConfig(model=ModelConfig(model="content-check"))
    engine = EngineCore(config, runner.load(), runner)
    sampling = SamplingParams(max_tokens=9)
    engine.add_request(Request(request_id="a", prompt_token_ids=[1, 2], sampling=sampling))
    return engine


def run(engine: EngineCore) -> None:
    while engine.has_work:
        engine.step()


@pytest.mark.parametrize("lost_at_launch", [False, True], ids=["at collect", "at launch"])
@pytest.mark.parametrize("faults", [Faults(), Faults(steps={2})], ids=["alone", "in recovery"])
def test_device_that_is_gone_is_not_tried_again(faults: Faults, lost_at_launch: bool) -> None:
    runner = _DeadRunner(faults=faults)
    runner.dies_at, runner.lost_at_launch = 4, lost_at_launch
    with pytest.raises(EngineDeadError, match="the device is gone"):
        run(engine_on(runner))
    assert runner.num_launches <= 6


def test_runner_that_cannot_be_reset_is_given_up() -> None:
    with pytest.raises(EngineDeadError, match="cannot be reset"):
        run(engine_on(_StuckRunner(faults=Faults(steps={1}))))
