"""Drives a real engine on the content-checking runner and checks it after every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from windlass.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from windlass.engine.core import EngineCore
from windlass.engine.outputs import SequenceOutput
from windlass.request import Request, RequestMetrics, SamplingParams, TokenLogprobs
from windlass.step import StepPlan
from windlass.testing.content_runner import ContentRunner, Faults


@dataclass(slots=True)
class Generation:
    """Everything an engine said about one request; `num_ends` must become 1."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    finish_reason: str | None = None
    stop_reason: int | None = None
    error: str | None = None
    num_cached_tokens: int = 0
    metrics: RequestMetrics | None = None
    num_ends: int = 0

    def take(self, output: SequenceOutput) -> None:
        """Add the news of one step."""
        self.token_ids += output.new_token_ids
        self.logprobs += output.logprobs or []
        self.prompt_logprobs = output.prompt_logprobs or self.prompt_logprobs
        self.num_cached_tokens += output.num_cached_tokens
        if output.finished:
            self.num_ends += 1
            self.finish_reason, self.stop_reason = output.finish_reason, output.stop_reason
            self.error, self.metrics = output.error, output.metrics


class EngineHarness:
    """One engine, its runner and what it said so far.

    `clock` is in steps. `check` raises AssertionError when an invariant does not hold; `step`
    calls it.
    """

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        max_num_seqs: int = 8,
        max_num_batched_tokens: int = 16,
        max_model_len: int = 128,
        vocab_size: int = 512,
        policy: str = "fcfs",
        enable_prefix_caching: bool = True,
        faults: Faults | None = None,
    ) -> None:
        self.runner = ContentRunner(
            num_blocks=num_blocks,
            block_size=block_size,
            max_num_seqs=max_num_seqs,
            max_model_len=max_model_len,
            vocab_size=vocab_size,
            faults=faults,
            observer=self._observe,
        )
        scheduler = SchedulerConfig(
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            policy="priority" if policy == "priority" else "fcfs",
        )
        self.config = EngineConfig(
            model=ModelConfig(model="content-check"),
            cache=CacheConfig(enable_prefix_caching=enable_prefix_caching),
            scheduler=scheduler,
        )
        self.now = 0.0
        self.plans: list[StepPlan] = []
        self.generations: dict[str, Generation] = {}
        self.engine = EngineCore(
            self.config, self.runner.load(), self.runner, clock=lambda: self.now
        )

    def add(
        self,
        request_id: str,
        prompt: Sequence[int],
        *,
        priority: int = 0,
        eos: tuple[int, ...] = (),
        salt: str = "",
        **sampling: object,
    ) -> None:
        """Add a request; `sampling` are fields of `SamplingParams`."""
        request = Request(
            request_id=request_id,
            prompt_token_ids=list(prompt),
            sampling=SamplingParams(**sampling),  # type: ignore[arg-type]
            eos_token_ids=eos,
            priority=priority,
            cache_salt=salt,
        )
        self.engine.add_request(request)
        self.generations[request_id] = Generation()

    def step(self) -> list[SequenceOutput]:
        """Run one step, note its news and check every invariant."""
        self.now += 1.0
        outputs = self.engine.step()
        for output in outputs:
            self.generations[output.request_id].take(output)
        self.check()
        return outputs

    def run(self, max_steps: int = 5000) -> dict[str, Generation]:
        """Step until there is nothing to do; more than `max_steps` is an AssertionError."""
        for _ in range(max_steps):
            if not self.engine.has_work:
                self.check_idle()
                return self.generations
            self.step()
        raise AssertionError(f"there is still work after {max_steps} steps")

    def check(self) -> None:
        """What must hold between any two steps."""
        assert self.runner.violations == []
        scheduler = self.engine.scheduler
        blocks, running = scheduler.blocks, scheduler.sequences.running
        held = Counter(block_id for seq in running for block_id in seq.block_ids)
        assert all(blocks.references(i) == held[i] for i in range(blocks.num_blocks))
        assert blocks.num_free + len(held) == blocks.capacity
        assert 0 not in held
        assert len(running) <= scheduler.max_num_seqs
        assert len({seq.row for seq in running}) == len(running)
        for seq in running:
            full = seq.num_computed_tokens // blocks.block_size
            assert all(held[block_id] == 1 for block_id in seq.block_ids[full:])
            in_flight = seq.num_sampled - seq.num_outputs
            assert seq.num_computed_tokens <= len(seq.token_ids) + in_flight
            assert seq.num_sampled <= seq.max_outputs
        assert all(generation.num_ends <= 1 for generation in self.generations.values())

    def check_idle(self) -> None:
        """What must hold when every request has ended."""
        scheduler = self.engine.scheduler
        assert scheduler.blocks.num_free == scheduler.blocks.capacity
        assert not scheduler.sequences.by_id
        assert not scheduler.sequences.running
        assert len(scheduler.sequences.waiting) == 0
        assert all(generation.num_ends == 1 for generation in self.generations.values())

    def _observe(self, plan: StepPlan) -> None:
        scheduler, violations = self.config.scheduler, self.runner.violations
        self.plans.append(plan)
        if (
            not 0
            < plan.num_tokens
            <= scheduler.token_budget(self.runner.info.max_num_batched_tokens)
        ):
            violations.append(f"step {plan.step_id} has {plan.num_tokens} tokens")
        if len(plan.rows) > scheduler.max_num_seqs:
            violations.append(f"step {plan.step_id} has {len(plan.rows)} rows")
        if any(row.num_tokens < 1 for row in plan.rows):
            violations.append(f"step {plan.step_id} has an empty row")


def generate_alone(
    prompt: Sequence[int], *, vocab_size: int = 512, **sampling: object
) -> Generation:
    """Return what a request gives on a fresh engine of its own, computed in one chunk: the oracle.

    `sampling` also takes `eos`. The prefix cache is off.
    """
    harness = EngineHarness(
        num_blocks=256,
        vocab_size=vocab_size,
        max_num_batched_tokens=1024,
        max_num_seqs=1,
        enable_prefix_caching=False,
    )
    harness.add("alone", prompt, **sampling)  # type: ignore[arg-type]
    return harness.run()["alone"]
