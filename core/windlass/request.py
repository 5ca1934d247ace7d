"""What a client asks for and what it gets back.

`SamplingParams` is validated when it is made: no route, no offline call can hand the engine a
value out of range. Names and defaults follow vLLM, so that code written for it runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from windlass.errors import RequestError

FinishReason = Literal["stop", "length", "abort", "error"]

MAX_N = 128
MAX_LOGPROBS = 20
MAX_STOP_STRINGS = 16
MAX_STOP_BYTES = 1024
MAX_LOGIT_BIAS = 4096
MAX_BAD_WORDS = 128
MAX_BAD_WORD_BYTES = 1024
MAX_CHOICES = 4096
_TEMPERATURE_EPSILON = 1e-5


def _check(ok: bool, param: str, value: object, allowed: str) -> None:
    if not ok:
        raise RequestError(f"{param} must be {allowed}, not {value!r}.", param=param)


def _check_range(param: str, value: float, low: float, high: float) -> None:
    ok = math.isfinite(value) and low <= value <= high
    _check(ok, param, value, f"between {low:g} and {high:g}")


ConstraintKind = Literal["json", "json_object", "regex", "choice", "grammar"]


class StructuredOutputs(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What an output must be, all of it: exactly one field is set.

    `json` is a JSON Schema, as a dict or as JSON text; `json_object` asks for any JSON object;
    `regex` must match the whole output; `choice` lists the possible outputs; `grammar` is a Lark
    grammar as llguidance reads it, or EBNF in the GBNF dialect (`root ::= ...`).

    Raises:
        RequestError: none or several are set, or `choice` is empty or too long.
    """

    json: dict[str, Any] | str | None = None
    json_object: bool = False
    regex: str | None = None
    choice: tuple[str, ...] | None = None
    grammar: str | None = None

    def __post_init__(self) -> None:
        kinds = self._kinds()
        if len(kinds) != 1:
            found = f"not {' and '.join(kinds)}" if kinds else "and none is set"
            raise RequestError(
                "structured_outputs must set exactly one of json, json_object, regex, choice and "
                f"grammar, {found}.",
                param="structured_outputs",
            )
        if self.choice is not None:
            allowed = f"from 1 to {MAX_CHOICES} texts"
            count = len(self.choice)
            _check(1 <= count <= MAX_CHOICES, "structured_outputs", count, allowed)

    def _kinds(self) -> list[ConstraintKind]:
        given: list[tuple[ConstraintKind, bool]] = [
            ("json", self.json is not None),
            ("json_object", self.json_object),
            ("regex", self.regex is not None),
            ("choice", self.choice is not None),
            ("grammar", self.grammar is not None),
        ]
        return [kind for kind, is_set in given if is_set]

    @property
    def kind(self) -> ConstraintKind:
        """The field that is set."""
        return self._kinds()[0]


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the next token is chosen and when to stop.

    Logits are changed in this order: logits processors, `logit_bias`, penalties (repetition, then
    frequency and presence), tokens that are not allowed, temperature, min_p, top_k, top_p.
    `temperature` 0 is greedy; `top_k` 0 or -1 is off. `logprobs` counts the alternatives per
    output token (0: only the chosen one), taken from the unchanged logits. `max_tokens=None` means
    the rest of the context. The same `seed` gives the same tokens in any batch.

    `structured_outputs` says what the whole output must be; `bad_words` are texts that it must
    not hold; `allowed_token_ids` are the only tokens it may hold. At most one of the three is set.
    `truncate_prompt_tokens` keeps only so many of the prompt's last tokens (-1: as many as leave
    room for one token). `extra_args` are the arguments of logits processors, by their names.

    Raises:
        RequestError: a value is out of range; `param` names it.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: Sequence[str] | str | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: dict[int, float] | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    structured_outputs: StructuredOutputs | None = None
    bad_words: Sequence[str] | None = None
    allowed_token_ids: Sequence[int] | None = None
    truncate_prompt_tokens: int | None = None
    extra_args: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self._check_sampling()
        self._check_lengths()
        self._check_stops()
        self._check_constraints()

    def _check_sampling(self) -> None:
        _check_range("temperature", self.temperature, 0.0, 2.0)
        _check_range("top_p", self.top_p, 0.0, 1.0)
        _check(self.top_p > 0, "top_p", self.top_p, "above 0")
        _check(self.top_k >= -1, "top_k", self.top_k, "-1 or 0 (off) or at least 1")
        _check_range("min_p", self.min_p, 0.0, 1.0)
        _check_range("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_range("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        seed_ok = self.seed is None or -(2**63) <= self.seed < 2**63
        _check(seed_ok, "seed", self.seed, "a 64-bit integer")
        for token, bias in (self.logit_bias or {}).items():
            _check(token >= 0, "logit_bias", token, "keyed by token ids of at least 0")
            _check_range("logit_bias", bias, -100.0, 100.0)
        _check(
            len(self.logit_bias or {}) <= MAX_LOGIT_BIAS,
            "logit_bias",
            len(self.logit_bias or {}),
            f"at most {MAX_LOGIT_BIAS} entries",
        )

    def _check_lengths(self) -> None:
        _check(1 <= self.n <= MAX_N, "n", self.n, f"from 1 to {MAX_N}")
        limit = self.max_tokens
        _check(limit is None or limit >= 1, "max_tokens", limit, "at least 1")
        _check(self.min_tokens >= 0, "min_tokens", self.min_tokens, "at least 0")
        within = limit is None or self.min_tokens <= limit
        _check(within, "min_tokens", self.min_tokens, "at most max_tokens")
        for name, value in (("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)):
            ok = value is None or 0 <= value <= MAX_LOGPROBS
            _check(ok, name, value, f"from 0 to {MAX_LOGPROBS}")

    def _check_stops(self) -> None:
        stops = self.stop_strings
        _check(len(stops) <= MAX_STOP_STRINGS, "stop", len(stops), f"{MAX_STOP_STRINGS} or fewer")
        for stop in stops:
            ok = 0 < len(stop.encode("utf-8", "replace")) <= MAX_STOP_BYTES
            _check(ok, "stop", stop[:40], f"non-empty and at most {MAX_STOP_BYTES} bytes")
        _check(all(t >= 0 for t in self.stop_token_ids), "stop_token_ids", "...", "at least 0")
        _check(not stops or self.detokenize, "stop", self.stop, "empty when detokenize is off")

    def _check_constraints(self) -> None:
        words, allowed = self.bad_words or (), self.allowed_token_ids
        few = len(words) <= MAX_BAD_WORDS
        _check(few, "bad_words", len(words), f"{MAX_BAD_WORDS} texts or fewer")
        for word in words:
            ok = 0 < len(word.encode("utf-8", "replace")) <= MAX_BAD_WORD_BYTES
            _check(ok, "bad_words", word[:40], f"non-empty and at most {MAX_BAD_WORD_BYTES} bytes")
        if allowed is not None:
            _check(bool(allowed), "allowed_token_ids", [], "null or at least one token id")
            _check(min(allowed) >= 0, "allowed_token_ids", min(allowed), "token ids of at least 0")
        keep = self.truncate_prompt_tokens
        ok = keep is None or keep == -1 or keep >= 1
        _check(ok, "truncate_prompt_tokens", keep, "-1 (as many as fit) or at least 1")
        self._check_combinations()

    def _check_combinations(self) -> None:
        """Refuse what could leave no token to choose from, or end an output too early."""
        constraints = {
            "structured_outputs": self.structured_outputs is not None,
            "allowed_token_ids": self.allowed_token_ids is not None,
            "bad_words": bool(self.bad_words),
        }
        given = [name for name, is_set in constraints.items() if is_set]
        if len(given) > 1:
            raise RequestError(
                f"{given[1]} cannot be combined with {given[0]}: together they may allow no token.",
                param=given[1],
            )
        for name in ("ignore_eos", "min_tokens"):
            if self.structured_outputs is not None and getattr(self, name):
                raise RequestError(
                    f"{name} cannot be combined with structured_outputs: the output ends where it "
                    "is complete.",
                    param=name,
                )

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple, whatever form it was given in."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken."""
        return self.temperature < _TEMPERATURE_EPSILON

    @property
    def has_penalties(self) -> bool:
        """Whether a penalty changes the logits."""
        return bool(
            self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0
        )


class PoolingOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is wanted of one text of a model that embeds or scores, as the engine sees it.

    `dimensions` numbers of the embedding (None: all), `normalize`d to length 1 or not. The first
    `skip_tokens` tokens are left out of a mean. `type_ids`, one per token, tell the two texts of
    a pair apart.
    """

    dimensions: int | None = None
    normalize: bool = False
    skip_tokens: int = 0
    type_ids: list[int] | None = None


class Request(msgspec.Struct, kw_only=True):
    """One sequence to generate, as the engine sees it (`n` is already unfolded into sequences).

    With `pooling` it is one text to embed or to score, and `sampling` has no influence.

    `sampling.seed` and `sampling.max_tokens` are set by the front end, never None here.
    `arrival_time` is in seconds of the engine's clock (0: now); a smaller `priority` goes first
    under the priority policy. `cache_salt` separates prefix caches of tenants. `eos_token_ids`
    end the sequence unless `sampling.ignore_eos`.
    """

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    eos_token_ids: tuple[int, ...] = ()
    arrival_time: float = 0.0
    priority: int = 0
    cache_salt: str = ""
    pooling: PoolingOptions | None = None


class Logprob(msgspec.Struct, frozen=True):
    """One token's log-probability and its rank (1: the most probable); text when decoded."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


TokenLogprobs = dict[int, Logprob]
"""Token id -> Logprob: the chosen (or prompt) token first, then the alternatives by rank."""


class RequestMetrics(msgspec.Struct, kw_only=True):
    """Times of one request, in seconds: of arrival (monotonic clock), and durations since."""

    arrival_time: float = 0.0
    queue_time: float = 0.0
    time_to_first_token: float = 0.0
    total_time: float = 0.0
    num_preemptions: int = 0


class CompletionOutput(msgspec.Struct, kw_only=True):
    """One of the `n` answers. `text` and `token_ids` are cumulative."""

    index: int
    text: str = ""
    token_ids: Sequence[int] = ()
    cumulative_logprob: float | None = None
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None

    @property
    def finished(self) -> bool:
        """Whether this answer is complete."""
        return self.finish_reason is not None


class RequestOutput(msgspec.Struct, kw_only=True):
    """The state of a request after a step: every answer so far.

    `prompt_logprobs` has one entry per prompt token, the first None. `num_cached_tokens` prompt
    tokens were found in the prefix cache.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = False
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    num_cached_tokens: int = 0
    metrics: RequestMetrics | None = None
