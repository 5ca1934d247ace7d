"""Turns between callers: how far apart two may get, and that nothing is lost or left behind."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.errors import QueueFullError
from windlass_server.access.caller import Caller
from windlass_server.access.fair_queue import OUTPUT_WEIGHT, FairQueue, Place, capacity_of
from windlass_server.access.meter import Meter

pytestmark = pytest.mark.anyio

A, B, C = (Caller(name, f"owner-{name}") for name in "abc")


@dataclass
class Call:
    """A request of an engine that gives every running one a token in each step."""

    caller: Caller
    prompt: int
    output: int
    meter: Meter = field(default_factory=Meter)
    place: Place | None = None
    turn: asyncio.Future[None] | None = None

    def enter(self, queue: FairQueue) -> None:
        self.meter.prompt_tokens = self.prompt
        self.place, self.turn = queue.enter(self.caller, self.meter, 1)

    @property
    def runs(self) -> bool:
        return self.turn is None or (self.turn.done() and not self.turn.cancelled())


def service(calls: list[Call], caller: Caller) -> float:
    """What the caller was served, by the paper's cost: prompts when they start, then tokens."""
    mine = [call for call in calls if call.caller is caller and call.runs]
    tokens = sum(call.prompt + OUTPUT_WEIGHT * call.meter.completion_tokens for call in mine)
    return tokens / caller.weight


def run_step(queue: FairQueue, running: list[Call]) -> None:
    for call in list(running):
        call.meter.completion_tokens += 1
        if call.meter.completion_tokens >= call.output:
            running.remove(call)
            assert call.place is not None
            queue.leave(call.place)


lengths = st.tuples(st.integers(1, 60), st.integers(1, 30))


@settings(max_examples=150, deadline=None)
@given(
    capacity=st.integers(1, 6),
    weights=st.tuples(st.sampled_from([0.5, 1.0, 2.0, 4.0]), st.sampled_from([1.0, 3.0])),
    first=st.lists(lengths, min_size=30, max_size=60),
    second=st.lists(lengths, min_size=30, max_size=60),
)
async def test_two_backlogged_callers_are_served_alike_within_a_bound(
    capacity: int,
    weights: tuple[float, float],
    first: list[tuple[int, int]],
    second: list[tuple[int, int]],
) -> None:
    """Never further apart than one prompt and what the engine can hold of one of them."""
    one, two = Caller("a", "a", weight=weights[0]), Caller("b", "b", weight=weights[1])
    queue = FairQueue(capacity)
    queue.share_between([one, two])
    calls = [Call(one, *sizes) for sizes in first] + [Call(two, *sizes) for sizes in second]
    for call in calls:
        call.enter(queue)
    longest = max(call.prompt for call in calls)
    in_engine = capacity * max(call.prompt + OUTPUT_WEIGHT * call.output for call in calls)
    bound = (longest + in_engine) / min(weights)
    while True:
        await asyncio.sleep(0)
        left = [[c for c in calls if c.caller is who and not c.runs] for who in (one, two)]
        if not all(left):
            break
        assert abs(service(calls, one) - service(calls, two)) <= bound
        running = [c for c in calls if c.runs and c.meter.completion_tokens < c.output]
        assert len(running) == capacity, "the engine is kept busy"
        run_step(queue, running)


async def test_a_caller_with_a_thousand_requests_does_not_hold_up_another() -> None:
    queue = FairQueue(2)
    queue.share_between([A, B])
    flood = [Call(A, 10, 10) for _ in range(1000)]
    for call in flood:
        call.enter(queue)
    late = Call(B, 10, 10)
    late.enter(queue)
    finished = 0
    while not late.runs:
        running = [c for c in flood if c.runs and c.meter.completion_tokens < c.output]
        run_step(queue, running)
        finished = sum(c.meter.completion_tokens >= c.output for c in flood)
    assert finished <= 2


async def test_weights_are_shares() -> None:
    heavy, light = Caller("a", "a", weight=3.0), Caller("b", "b", weight=1.0)
    queue = FairQueue(4)
    queue.share_between([heavy, light])
    calls = [Call(who, 10, 10) for _ in range(200) for who in (heavy, light)]
    for call in calls:
        call.enter(queue)
    for _ in range(300):
        run_step(queue, [c for c in calls if c.runs and c.meter.completion_tokens < c.output])
    counts = [sum(c.runs for c in calls if c.caller is who) for who in (heavy, light)]
    assert 2.5 <= counts[0] / counts[1] <= 3.5


async def test_who_was_idle_has_saved_nothing_up() -> None:
    queue = FairQueue(1)
    queue.share_between([A, B])
    for _ in range(50):
        alone = Call(A, 100, 10)
        alone.enter(queue)
        run_step(queue, [alone] * 1)
        alone.meter.completion_tokens = 10
        assert alone.place is not None
        queue.leave(alone.place)
    calls = [Call(who, 10, 1) for _ in range(20) for who in (A, B)]
    for call in calls:
        call.enter(queue)
    order = []
    while len(order) < 20:
        running = [c for c in calls if c.runs and c.meter.completion_tokens < c.output]
        order += [c.caller.name for c in running]
        run_step(queue, running)
    assert 8 <= order.count("a") <= 12


async def test_tokens_of_what_runs_count_before_it_ends() -> None:
    queue = FairQueue(2)
    queue.share_between([A, B])
    long, short = Call(A, 10, 1000), Call(B, 10, 5)
    waiting = [Call(A, 10, 5), Call(B, 10, 5)]
    for call in (long, short, *waiting):
        call.enter(queue)
    long.meter.completion_tokens = 900
    short.meter.completion_tokens = 5
    assert short.place is not None
    queue.leave(short.place)
    assert [call.runs for call in waiting] == [False, True]


async def test_with_one_caller_or_none_nothing_waits() -> None:
    for callers in ([], [A]):
        queue = FairQueue(1)
        queue.share_between(callers)
        calls = [Call(A, 1, 1) for _ in range(100)]
        for call in calls:
            call.enter(queue)
        assert all(call.turn is None for call in calls)
        assert queue.in_flight == 100


async def test_the_second_caller_s_key_starts_the_sharing_and_its_end_ends_it() -> None:
    queue = FairQueue(1)
    queue.share_between([A, B])
    calls = [Call(A, 1, 1) for _ in range(3)]
    for call in calls:
        call.enter(queue)
    assert [call.runs for call in calls] == [True, False, False]
    queue.share_between([A])
    assert all(call.runs for call in calls)


async def test_of_each_caller_so_many_wait_and_the_other_s_queue_is_not_full() -> None:
    queue = FairQueue(1, max_waiting=2, max_waiting_tokens=25)
    queue.share_between([A, B])
    calls = [Call(A, 10, 1) for _ in range(3)]
    for call in calls:
        call.enter(queue)
    with pytest.raises(QueueFullError, match="2 requests of this key"):
        Call(A, 1, 1).enter(queue)
    Call(B, 10, 1).enter(queue)
    with pytest.raises(QueueFullError, match="10 prompt tokens of this key"):
        Call(B, 16, 1).enter(queue)
    Call(B, 15, 1).enter(queue)


async def test_who_gives_up_makes_room_in_the_queue_at_once() -> None:
    queue = FairQueue(1, max_waiting=1)
    queue.share_between([A, B])
    calls = [Call(A, 1, 1) for _ in range(3)]
    for call in calls[:2]:
        call.enter(queue)
    waiting = calls[1]
    assert waiting.turn is not None
    assert waiting.place is not None
    waiting.turn.cancel()
    queue.leave(waiting.place)
    calls[2].enter(queue)
    assert queue.waiting == 1


@pytest.mark.parametrize(
    ("max_num_seqs", "max_queued", "capacity"),
    [(256, 2048, 288), (4, 2048, 5), (1, 2048, 2), (256, 0, 288), (256, 8, 264), (8, 1, 9)],
)
def test_a_little_more_than_the_engine_runs_is_let_in(
    max_num_seqs: int, max_queued: int, capacity: int
) -> None:
    assert capacity_of(max_num_seqs, max_queued) == capacity


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), capacity=st.integers(1, 5))
async def test_nothing_is_lost_or_left_behind_when_callers_give_up_at_any_time(
    seed: int, capacity: int
) -> None:
    chance = random.Random(seed)
    queue = FairQueue(capacity)
    callers = [A, B, C]
    queue.share_between(callers)
    most, ended = 0, 0

    async def work(caller: Caller) -> None:
        nonlocal most, ended
        call = Call(caller, chance.randint(1, 20), 0)
        try:
            call.enter(queue)
            if call.turn is not None:
                await call.turn
            most = max(most, queue.in_flight)
            for _ in range(chance.randint(0, 8)):
                await asyncio.sleep(0)
                call.meter.completion_tokens += 1
        finally:
            ended += 1
            assert call.place is not None
            queue.leave(call.place)

    tasks: deque[asyncio.Task[None]] = deque()
    for _ in range(60):
        tasks.append(asyncio.create_task(work(chance.choice(callers))))
        for _ in range(chance.randint(0, 3)):
            await asyncio.sleep(0)
        if chance.random() < 0.4:
            chance.choice(tasks).cancel()
        if chance.random() < 0.05:
            queue.share_between(chance.sample(callers, chance.randint(1, 3)))
    queue.share_between(callers)
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert queue.in_flight == queue.waiting == 0
    assert not any(task.exception() for task in tasks if not task.cancelled())
    queue.share_between([])
    assert not queue._lines
    after = Call(A, 1, 1)
    after.enter(queue)
    assert after.runs
