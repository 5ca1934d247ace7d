"""Rates of a key: what fills up, what is refused, and what the headers tell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass_server.access.caller import Caller
from windlass_server.access.rate_limits import RateLimits, duration
from windlass_server.access.settings import KeyLimits
from windlass_server.access.token_bucket import TokenBucket
from windlass_server.errors import ApiError


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def caller_with(**limits: int) -> Caller:
    return Caller("a", "owner-a", limits=KeyLimits(**limits))


def refused(limits: RateLimits, caller: Caller, tokens: int | None = None) -> ApiError:
    with pytest.raises(ApiError) as found:
        limits.count_request(caller) if tokens is None else limits.begin(caller, tokens)
    error = found.value
    assert (error.status, error.error.type) == (429, "rate_limit_error")
    assert error.error.code == "rate_limit_exceeded"
    return error


def test_a_bucket_fills_at_its_rate_and_no_further() -> None:
    clock = Clock()
    bucket = TokenBucket(60, clock)
    bucket.take(60)
    assert bucket.remaining == 0
    assert bucket.wait_for(10) == pytest.approx(10)
    clock.now += 9.5
    assert bucket.remaining == 9
    assert bucket.wait_for(10) == pytest.approx(0.5)
    clock.now += 1000
    assert bucket.remaining == 60
    assert bucket.seconds_to_full == 0


def test_what_a_bucket_cannot_hold_is_taken_from_a_full_one_which_is_in_debt_then() -> None:
    clock = Clock()
    bucket = TokenBucket(60, clock)
    assert bucket.wait_for(180) == 0
    bucket.take(180)
    assert bucket.wait_for(1) == pytest.approx(121)
    bucket.take(-150)
    assert bucket.remaining == 30


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.floats(0, 100), st.integers(0, 2000)), max_size=50),
)
def test_a_bucket_never_gives_more_than_its_rate_and_one_filling(
    rate: int, asked: list[tuple[float, int]]
) -> None:
    clock = Clock()
    bucket = TokenBucket(rate, clock)
    taken, largest = 0, 0
    for pause, amount in asked:
        clock.now += pause
        if bucket.wait_for(amount) == 0:
            bucket.take(amount)
            taken += amount
            largest = max(largest, amount)
    passed = clock.now - 100.0
    assert taken <= passed * rate / 60 + rate + largest + 1e-6


def test_requests_of_a_minute() -> None:
    clock, seen = Clock(), []
    limits, caller = RateLimits(seen.append, clock), caller_with(requests_per_minute=2)
    limits.count_request(caller)
    assert limits.headers(caller) == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "30s",
    }
    limits.count_request(caller)
    error = refused(limits, caller)
    assert "2 requests per minute" in error.error.message
    assert error.headers["Retry-After"] == "30"
    assert error.headers["retry-after-ms"] == "30000"
    assert error.headers["x-ratelimit-remaining-requests"] == "0"
    assert seen == ["requests_per_minute"]
    clock.now += 29.5
    assert refused(limits, caller).headers["retry-after-ms"] == "500"
    clock.now += 0.5
    limits.count_request(caller)


def test_tokens_are_estimated_at_first_and_settled_at_the_end() -> None:
    clock = Clock()
    limits, caller = RateLimits(clock=clock), caller_with(tokens_per_minute=600)
    limits.begin(caller, 500)
    assert limits.headers(caller)["x-ratelimit-remaining-tokens"] == "100"
    error = refused(limits, caller, 200)
    assert error.headers["Retry-After"] == "10"
    assert "600 tokens per minute" in error.error.message
    limits.end(caller, 500, 50)
    assert limits.headers(caller)["x-ratelimit-remaining-tokens"] == "550"
    limits.begin(caller, 200)
    limits.end(caller, 200, 900)
    assert refused(limits, caller, 1).headers["retry-after-ms"] == "35100"


def test_calls_that_run_at_a_time() -> None:
    limits, caller = RateLimits(clock=Clock()), caller_with(max_concurrent_requests=2)
    limits.begin(caller, 10)
    limits.begin(caller, 10)
    assert "2 concurrent requests" in refused(limits, caller, 10).error.message
    limits.end(caller, 10, 10)
    limits.begin(caller, 10)
    assert limits.headers(caller) == {}


def test_keys_do_not_share_their_limits_and_no_limit_is_none() -> None:
    limits = RateLimits(clock=Clock())
    first = caller_with(requests_per_minute=1)
    other = Caller("b", "owner-b", limits=first.limits)
    limits.count_request(first)
    limits.count_request(other)
    refused(limits, first)
    free = Caller("c", "owner-c")
    for _ in range(1000):
        limits.count_request(free)
        limits.begin(free, 10**9)
    assert limits.headers(free) == {}


def test_a_changed_limit_holds_at_once_and_what_runs_still_counts() -> None:
    limits = RateLimits(clock=Clock())
    limits.begin(caller_with(max_concurrent_requests=5), 10)
    fewer = caller_with(max_concurrent_requests=1)
    refused(limits, fewer, 10)
    limits.end(fewer, 10, 10)
    limits.begin(fewer, 10)


def test_a_key_that_is_gone_is_forgotten_once_nothing_of_it_runs() -> None:
    limits, caller = RateLimits(clock=Clock()), caller_with(requests_per_minute=1)
    limits.count_request(caller)
    limits.begin(caller, 0)
    limits.forget_others([])
    refused(limits, caller)
    limits.end(caller, 0, 0)
    limits.forget_others([])
    limits.count_request(caller)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.02, "20ms"), (1, "1s"), (7.66, "7.66s"), (60, "1m0s"), (361.5, "6m1.5s")],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
