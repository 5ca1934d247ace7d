"""The engine's side of a request: which tokens are known, which are computed, where they stand."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from windlass.request import Request, RequestMetrics, TokenLogprobs


class SequenceStatus(enum.Enum):
    """Where a sequence stands; a preempted one is waiting again."""

    WAITING = enum.auto()
    RUNNING = enum.auto()
    FINISHED = enum.auto()


@dataclass(slots=True, eq=False, weakref_slot=True)
class Sequence:
    """State of one request.

    Attributes:
        order: place in the queue, smallest first: (priority, number of arrival).
        max_outputs: output tokens after which it ends by length.
        stop_reasons: token that ends it -> the `stop_reason` to report.
        token_ids: prompt and output tokens that the host knows.
        num_sampled: output tokens sampled by launched steps, known or still in flight.
        num_computed_tokens: tokens whose KV launched steps have computed or will compute.
        num_prefill_tokens: tokens known at admission; behind them it decodes.
        num_in_flight_steps: launched steps with a part of it whose result is not known.
        num_stale_steps: how many of those, the oldest, give a result that is to be dropped.
        num_shared_tokens: tokens found in the prefix cache at this admission.
        num_cached_tokens: the same at the first admission: it is reported.
        block_hashes: names of its full blocks, as far as they were needed.
        num_hashed_blocks: blocks of its table that need not be offered to the prefix cache.
        prompt_logprobs: gathered so far, None when they are not wanted or were delivered.
        distrusts_cache: numbers were not finite after cached blocks were read: read none.
    """

    request: Request
    order: tuple[int, int]
    arrival_time: float
    max_outputs: int
    request_id: str = field(init=False)
    prompt_len: int = field(init=False)
    min_outputs: int = field(init=False)
    stop_reasons: dict[int, int | None] = field(init=False)
    token_ids: list[int] = field(init=False)
    prompt_logprobs: list[TokenLogprobs | None] | None = field(init=False)
    status: SequenceStatus = SequenceStatus.WAITING
    row: int = -1
    block_ids: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)
    num_hashed_blocks: int = 0
    num_sampled: int = 0
    num_computed_tokens: int = 0
    num_prefill_tokens: int = 0
    num_in_flight_steps: int = 0
    num_stale_steps: int = 0
    num_shared_tokens: int = 0
    num_cached_tokens: int = 0
    num_preemptions: int = 0
    distrusts_cache: bool = False
    scheduled_time: float | None = None
    first_token_time: float | None = None

    def __post_init__(self) -> None:
        request, sampling = self.request, self.request.sampling
        self.request_id = request.request_id
        self.prompt_len = len(request.prompt_token_ids)
        self.token_ids = list(request.prompt_token_ids)
        self.min_outputs = sampling.min_tokens
        self.prompt_logprobs = None if sampling.prompt_logprobs is None else [None]
        self.stop_reasons = {token: token for token in sampling.stop_token_ids}
        if not sampling.ignore_eos:
            self.stop_reasons |= dict.fromkeys(request.eos_token_ids)

    @property
    def num_outputs(self) -> int:
        """Output tokens that the host knows."""
        return len(self.token_ids) - self.prompt_len

    @property
    def is_prefilling(self) -> bool:
        """Whether tokens known at admission are still to be computed."""
        return self.num_computed_tokens < self.num_prefill_tokens

    @property
    def reads_cache(self) -> bool:
        """Whether its prefix may come from the cache: not when every prompt token is wanted."""
        return self.prompt_logprobs is None and not self.distrusts_cache

    def discard_in_flight(self) -> None:
        """Take back what steps in flight are computing: their results will be dropped."""
        self.num_stale_steps = self.num_in_flight_steps
        self.num_sampled = self.num_outputs
        if self.prompt_logprobs is not None:
            self.prompt_logprobs = [None]

    def metrics(self, now: float) -> RequestMetrics:
        """Return the request's times when it ends at `now`; 0 for what never happened."""
        arrival = self.arrival_time
        scheduled = now if self.scheduled_time is None else self.scheduled_time
        first_token = arrival if self.first_token_time is None else self.first_token_time
        return RequestMetrics(
            arrival_time=arrival,
            queue_time=scheduled - arrival,
            time_to_first_token=first_token - arrival,
            total_time=now - arrival,
            num_preemptions=self.num_preemptions,
        )
