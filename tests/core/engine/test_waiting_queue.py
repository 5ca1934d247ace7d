from __future__ import annotations

from windlass.engine.sequence import Sequence
from windlass.engine.waiting_queue import WaitingQueue
from windlass.request import Request, SamplingParams


def sequence(priority: int, arrival: int, prompt_len: int = 1) -> Sequence:
    request = Request(
        request_id=f"{priority}-{arrival}",
        prompt_token_ids=[0] * prompt_len,
        sampling=SamplingParams(),
    )
    return Sequence(request, (priority, arrival), 0.0, 1)


def drain(queue: WaitingQueue) -> list[str]:
    """Take every sequence from the head."""
    names = []
    while (head := queue.head()) is not None:
        names.append(head.request_id)
        queue.remove(head)
    return names


def test_smaller_priority_goes_first_then_earlier_arrival() -> None:
    queue = WaitingQueue()
    for seq in (sequence(1, 0), sequence(0, 2), sequence(0, 1)):
        queue.add(seq)
    assert drain(queue) == ["0-1", "0-2", "1-0"]


def test_removed_sequence_is_not_found_and_may_come_back() -> None:
    queue, first, second = WaitingQueue(), sequence(0, 0), sequence(0, 1)
    queue.add(first)
    queue.add(second)
    queue.remove(first)
    assert queue.head() is second
    queue.add(first)
    assert drain(queue) == ["0-0", "0-1"]


def test_head_among_some_leaves_the_others() -> None:
    queue = WaitingQueue()
    for arrival in range(4):
        queue.add(sequence(0, arrival))
    head = queue.head(only={"0-3", "0-2"})
    assert head is not None
    assert head.request_id == "0-2"
    assert queue.head(only={"unknown"}) is None
    assert len(queue) == 4


def test_tokens_and_length_follow_what_waits() -> None:
    queue, seq = WaitingQueue(), sequence(0, 0, prompt_len=5)
    queue.add(seq)
    queue.add(sequence(0, 1, prompt_len=2))
    assert (len(queue), queue.num_tokens) == (2, 7)
    queue.remove(seq)
    assert (len(queue), queue.num_tokens) == (1, 2)


def test_many_removals_leave_no_entries_behind() -> None:
    queue = WaitingQueue()
    sequences = [sequence(0, arrival) for arrival in range(1000)]
    for seq in sequences:
        queue.add(seq)
    for seq in sequences[1:-1]:
        queue.remove(seq)
    assert len(queue._heap) < 100
    assert drain(queue) == ["0-0", "0-999"]
