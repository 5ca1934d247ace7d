"""Random loads, limits and mishaps: every request ends once, with the tokens it has alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.testing.content_runner import Faults
from windlass.testing.engine_harness import EngineHarness, Generation, generate_alone

VOCAB_SIZE = 23
BLOCK_SIZE = 4


@dataclass(frozen=True)
class Load:
    """One request of a random load; prompts share prefixes because few seeds are drawn."""

    prompt_seed: int
    prompt_len: int
    max_tokens: int
    stop_token: int
    min_tokens: int
    priority: int
    salt: str
    logprobs: bool
    arrives: int
    aborted_at: int | None

    @property
    def prompt(self) -> tuple[int, ...]:
        """Tokens made from the seed: equal seeds give prefixes of each other."""
        source = random.Random(self.prompt_seed)
        return tuple(source.randrange(VOCAB_SIZE) for _ in range(self.prompt_len))

    @property
    def sampling(self) -> dict[str, Any]:
        """Fields of SamplingParams."""
        asked = 0 if self.logprobs else None
        return {
            "max_tokens": self.max_tokens,
            "stop_token_ids": (self.stop_token,),
            "min_tokens": min(self.min_tokens, self.max_tokens),
            "logprobs": asked,
            "prompt_logprobs": asked,
        }

    def alone(self) -> Generation:
        """What it gives with nobody else there."""
        return _alone(self.prompt, tuple(sorted(self.sampling.items(), key=lambda kv: kv[0])))


@cache
def _alone(prompt: tuple[int, ...], sampling: tuple[tuple[str, Any], ...]) -> Generation:
    return generate_alone(prompt, vocab_size=VOCAB_SIZE, **dict(sampling))


LOADS = st.lists(
    st.builds(
        Load,
        prompt_seed=st.integers(0, 2),
        prompt_len=st.integers(1, 24),
        max_tokens=st.integers(1, 16),
        stop_token=st.integers(0, VOCAB_SIZE - 1),
        min_tokens=st.integers(0, 3),
        priority=st.integers(-1, 1),
        salt=st.sampled_from(["", "", "a"]),
        logprobs=st.sampled_from([False, False, True]),
        arrives=st.integers(0, 12),
        aborted_at=st.one_of(st.none(), st.none(), st.integers(0, 30)),
    ),
    min_size=1,
    max_size=10,
)

ENGINES = st.fixed_dictionaries(
    {
        # The largest request needs (24 + 16 - 1) / 4 = 10 blocks.
        "num_blocks": st.integers(11, 30),
        "max_num_seqs": st.integers(1, 6),
        "max_num_batched_tokens": st.integers(1, 30),
        "policy": st.sampled_from(["fcfs", "priority"]),
        "enable_prefix_caching": st.booleans(),
    }
)


def drive(harness: EngineHarness, loads: list[Load]) -> dict[str, Generation]:
    """Let requests arrive and leave in their steps, then run to the end."""
    for now in range(31):
        for i, load in enumerate(loads):
            if load.arrives == now:
                harness.add(
                    f"r{i}", load.prompt, priority=load.priority, salt=load.salt, **load.sampling
                )
        harness.engine.abort([f"r{i}" for i, load in enumerate(loads) if load.aborted_at == now])
        harness.step()
    return harness.run(max_steps=bound(loads))


def bound(loads: list[Load]) -> int:
    """Steps within which everything must have ended, even one token at a time and with each
    request recomputed ten times."""
    return 50 + 10 * sum(load.prompt_len + load.max_tokens for load in loads)


def expect_alone(load: Load, got: Generation) -> None:
    """The tokens, their log-probabilities and the end are those of the oracle."""
    alone = load.alone()
    assert got.token_ids == alone.token_ids
    assert (got.finish_reason, got.stop_reason) == (alone.finish_reason, alone.stop_reason)
    assert got.logprobs == alone.logprobs
    assert got.prompt_logprobs == alone.prompt_logprobs


@settings(max_examples=120, deadline=None)
@given(loads=LOADS, engine=ENGINES)
def test_every_request_ends_once_with_the_tokens_it_has_alone(
    loads: list[Load], engine: dict[str, Any]
) -> None:
    harness = EngineHarness(block_size=BLOCK_SIZE, vocab_size=VOCAB_SIZE, **engine)
    generations = drive(harness, loads)
    for i, load in enumerate(loads):
        got = generations[f"r{i}"]
        if got.finish_reason == "abort":
            assert got.token_ids == load.alone().token_ids[: len(got.token_ids)]
        else:
            expect_alone(load, got)
        assert got.metrics is not None
        assert got.metrics.num_preemptions <= 10


@settings(max_examples=60, deadline=None)
@given(loads=LOADS, engine=ENGINES, data=st.data())
def test_failed_steps_and_bad_numbers_reach_only_the_guilty(
    loads: list[Load], engine: dict[str, Any], data: st.DataObject
) -> None:
    names = st.sampled_from([f"r{i}" for i in range(len(loads))])
    # A fault that passes and comes again while its requests are tried looks like poison.
    steps = data.draw(st.sets(st.integers(0, 40), max_size=1))
    faults = Faults(
        steps=steps,
        poison=set() if steps else data.draw(st.sets(names, max_size=2)),
        not_finite=data.draw(st.sets(st.tuples(names, st.integers(0, 5)), max_size=3)),
        at_launch=data.draw(st.booleans()),
    )
    harness = EngineHarness(
        block_size=BLOCK_SIZE,
        vocab_size=VOCAB_SIZE,
        faults=faults,
        **engine,
    )
    generations = drive(harness, loads)
    guilty = faults.poison | {name for name, _ in faults.not_finite}
    for i, load in enumerate(loads):
        name, got = f"r{i}", generations[f"r{i}"]
        if got.finish_reason == "error":
            assert name in guilty
        if got.finish_reason in ("error", "abort"):
            assert got.token_ids == load.alone().token_ids[: len(got.token_ids)]
        else:
            assert name not in faults.poison
            expect_alone(load, got)


@settings(max_examples=60, deadline=None)
@given(
    prompt_lens=st.lists(st.integers(1, 24), min_size=2, max_size=10),
    budget=st.integers(1, 20),
    num_blocks=st.integers(11, 20),
)
def test_first_come_is_first_admitted(prompt_lens: list[int], budget: int, num_blocks: int) -> None:
    harness = EngineHarness(
        num_blocks=num_blocks, max_num_batched_tokens=budget, max_num_seqs=4, max_model_len=41
    )
    for i, length in enumerate(prompt_lens):
        harness.add(f"{i:02}", [i + 1] * length, max_tokens=12)
    harness.run(max_steps=5000)
    admitted: list[str] = []
    for plan in harness.plans:
        for new in plan.new_rows:
            if new.request_id not in admitted:
                admitted.append(new.request_id)
    assert admitted == sorted(admitted)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num_blocks=st.integers(11, 16),
    num_requests=st.integers(2, 12),
)
def test_scarce_blocks_never_stop_progress(seed: int, num_blocks: int, num_requests: int) -> None:
    source = random.Random(seed)
    harness = EngineHarness(num_blocks=num_blocks, max_num_batched_tokens=8, max_num_seqs=12)
    for i in range(num_requests):
        prompt = [source.randrange(512) for _ in range(source.randrange(1, 20))]
        harness.add(f"r{i}", prompt, max_tokens=source.randrange(1, 20))
    idle = 0
    while harness.engine.has_work:
        launches = harness.runner.num_launches
        harness.step()
        idle = 0 if harness.runner.num_launches > launches else idle + 1
        assert idle <= 2, "two steps that only collect empty the pipeline, a third does nothing"
    harness.check_idle()
    for generation in harness.generations.values():
        assert generation.metrics is not None
        assert generation.metrics.num_preemptions <= 10
