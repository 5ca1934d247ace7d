"""What each key has used of its limits, the 429s, and the headers that tell it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from windlass_server.access.caller import Caller
from windlass_server.access.settings import KeyLimits
from windlass_server.access.token_bucket import TokenBucket
from windlass_server.errors import ApiError

REQUESTS = "requests_per_minute"
TOKENS = "tokens_per_minute"
CONCURRENT = "max_concurrent_requests"
LIMITS = (REQUESTS, TOKENS, CONCURRENT)
"""What a request may be refused for."""

_CONCURRENT_RETRY = 1.0
"""Seconds after which to try again when as many requests run as may: nobody knows better."""


@dataclass(slots=True)
class _Use:
    """What one key uses; a bucket is None where there is no limit."""

    limits: KeyLimits
    requests: TokenBucket | None
    tokens: TokenBucket | None
    concurrent: int = 0


class RateLimits:
    """The limits of all keys, by owner; `on_refusal` is told which limit a request was over.

    `clock` is in seconds and never goes back.
    """

    def __init__(
        self,
        on_refusal: Callable[[str], None] = lambda limit: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_refusal = on_refusal
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    def _use(self, caller: Caller) -> _Use:
        """Return what `caller` uses; a limit that was changed starts anew."""
        use, limits = self._uses.get(caller.owner), caller.limits
        if use is not None and use.limits == limits:
            return use
        concurrent = use.concurrent if use is not None else 0
        requests, tokens = limits.requests_per_minute, limits.tokens_per_minute
        use = self._uses[caller.owner] = _Use(
            limits,
            TokenBucket(requests, self._clock) if requests else None,
            TokenBucket(tokens, self._clock) if tokens else None,
            concurrent,
        )
        return use

    def forget_others(self, callers: Iterable[Caller]) -> None:
        """Forget what was used by keys that are not among `callers`."""
        known = {caller.owner for caller in callers}
        for owner in [o for o, use in self._uses.items() if o not in known and not use.concurrent]:
            del self._uses[owner]

    def count_request(self, caller: Caller) -> None:
        """Take one request of the caller's rate, whatever becomes of it.

        Raises:
            ApiError: 429, that was too many; nothing was taken.
        """
        use = self._use(caller)
        if use.requests is None:
            return
        wait = use.requests.wait_for(1)
        if wait > 0:
            raise self._refusal(caller, REQUESTS, wait)
        use.requests.take(1)

    def begin(self, caller: Caller, tokens: int) -> None:
        """Take the estimated `tokens` of one call, and count it as running until `end`.

        Raises:
            ApiError: 429, too many run, or too many tokens were used; nothing was taken.
        """
        use = self._use(caller)
        with self.running(caller):
            wait = use.tokens.wait_for(tokens) if use.tokens is not None else 0
            if wait > 0:
                raise self._refusal(caller, TOKENS, wait)
        if use.tokens is not None:
            use.tokens.take(tokens)
        use.concurrent += 1

    @contextmanager
    def running(self, caller: Caller) -> Iterator[None]:
        """Count a call as running for a block of code.

        Raises:
            ApiError: 429, too many run.
        """
        use = self._use(caller)
        if 0 < use.limits.max_concurrent_requests <= use.concurrent:
            raise self._refusal(caller, CONCURRENT, _CONCURRENT_RETRY)
        use.concurrent += 1
        try:
            yield
        finally:
            self._use(caller).concurrent -= 1

    def end(self, caller: Caller, estimated: int, used: int) -> None:
        """End what `begin` began: the call has used so many tokens."""
        use = self._use(caller)
        use.concurrent -= 1
        if use.tokens is not None:
            use.tokens.take(used - estimated)

    def headers(self, caller: Caller) -> dict[str, str]:
        """Return OpenAI's headers about the caller's rates; none where there is no limit."""
        use, headers = self._use(caller), {}
        for unit, bucket in (("requests", use.requests), ("tokens", use.tokens)):
            if bucket is not None:
                headers[f"x-ratelimit-limit-{unit}"] = str(bucket.per_minute)
                headers[f"x-ratelimit-remaining-{unit}"] = str(bucket.remaining)
                headers[f"x-ratelimit-reset-{unit}"] = duration(bucket.seconds_to_full)
        return headers

    def _refusal(self, caller: Caller, limit: str, wait: float) -> ApiError:
        self._on_refusal(limit)
        name = f"{getattr(caller.limits, limit)} {limit.removeprefix('max_').replace('_', ' ')}"
        headers = {
            **self.headers(caller),
            "Retry-After": str(math.ceil(round(wait, 6))),
            "retry-after-ms": str(_milliseconds(wait)),
        }
        message = f"Rate limit reached: this key may make {name}. Try again in {duration(wait)}."
        if limit == TOKENS:
            message = message.replace("make", "use")
        return ApiError(
            429, message, type="rate_limit_error", code="rate_limit_exceeded", headers=headers
        )


def duration(seconds: float) -> str:
    """Write seconds as OpenAI does: `20ms`, `7.66s`, `6m0s`."""
    milliseconds = _milliseconds(seconds)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    text = f"{rest / 1000:g}s"
    return f"{minutes}m{text}" if minutes else text


def _milliseconds(seconds: float) -> int:
    return math.ceil(round(seconds * 1000, 3))
