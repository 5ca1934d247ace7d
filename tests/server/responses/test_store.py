"""What is kept is bounded in number, bytes and time, and belongs to its owner."""

from __future__ import annotations

from typing import Any

from windlass_server.protocol.response_objects import OutputMessage, OutputText, Response
from windlass_server.responses.store import ResponseStore, StoredResponse


class Clock:
    """A clock that the test turns."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(name: str, *, owner: str = "me", previous: str | None = None) -> StoredResponse:
    output = OutputMessage(f"out-{name}", "completed", [OutputText(f"Answer {name}.")])
    response = Response(
        id=name, created_at=0, model="m", output=[output], previous_response_id=previous
    )
    return StoredResponse.of(owner, response, [_said(f"in-{name}")])


def _said(item_id: str) -> dict[str, Any]:
    content = [{"type": "input_text", "text": "Hello"}]
    return {"id": item_id, "type": "message", "role": "user", "content": content}


def store(count: int = 10, size: int = 10**6, ttl: float = 60.0) -> tuple[ResponseStore, Clock]:
    clock = Clock()
    return ResponseStore(count, size, ttl, clock), clock


def kept(responses: ResponseStore, *names: str) -> list[bool]:
    return [responses.get("me", name) is not None for name in names]


def test_at_the_limit_of_number_the_longest_unused_goes() -> None:
    responses, _ = store(count=3)
    for name in "abc":
        responses.add(record(name))
    assert kept(responses, "b", "c", "a") == [True, True, True]
    responses.add(record("d"))
    assert kept(responses, "a", "b", "c", "d") == [True, False, True, True]


def test_at_the_limit_of_bytes_the_longest_unused_goes_and_a_larger_one_is_not_kept() -> None:
    size = record("a").size
    responses, _ = store(size=2 * size)
    for name in "abc":
        responses.add(record(name))
    assert kept(responses, "a", "b", "c") == [False, True, True]
    assert responses.size == 2 * size
    small, _ = store(size=size - 1)
    small.add(record("a"))
    assert (len(small), small.size) == (0, 0)


def test_a_response_expires_after_its_last_use() -> None:
    responses, clock = store(ttl=60)
    for name in "ab":
        responses.add(record(name))
    clock.now = 59
    assert kept(responses, "a") == [True]
    clock.now = 61
    assert kept(responses, "a", "b") == [True, False]
    clock.now = 122
    assert kept(responses, "a") == [False]
    assert responses.size == 0
    assert responses.item("me", "out-a") is None


def test_another_owner_sees_deletes_and_follows_nothing() -> None:
    responses, _ = store()
    responses.add(record("a"))
    assert responses.get("you", "a") is None
    assert not responses.delete("you", "a")
    assert responses.item("you", "out-a") is None
    assert responses.conversation("you", "a") is None
    assert responses.delete("me", "a")


def test_a_conversation_is_all_turns_in_order_or_nothing() -> None:
    responses, _ = store()
    responses.add(record("a"))
    responses.add(record("b", previous="a"))
    items = responses.conversation("me", "b")
    assert items is not None
    assert [item["id"] for item in items] == ["in-a", "out-a", "in-b", "out-b"]
    assert responses.conversation("me", None) == []
    responses.delete("me", "a")
    assert responses.conversation("me", "b") is None


def test_a_store_of_none_keeps_none() -> None:
    responses, _ = store(count=0)
    responses.add(record("a"))
    assert len(responses) == 0
