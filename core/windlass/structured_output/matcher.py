"""Matchers: where an output stands in its grammar, and which tokens may follow."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from windlass.config import StructuredOutputConfig
from windlass.errors import RequestError
from windlass.request import SamplingParams
from windlass.structured_output.errors import ConstraintError
from windlass.structured_output.grammar import bad_words_grammar, constraint_text, write_grammar

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    from windlass.structured_output.vocabulary import Vocabulary

_THREADS = 2
_MAX_KEPT = 128
"""Compiled grammars that are kept for requests to come."""

_KEYWORDS = (
    ("oneOf", "oneOf"),
    ("min/maxProperties", "minProperties"),
    ("circular references", "$ref"),
    ("multipleOf", "multipleOf"),
    ("range", "minimum"),
    ("regex", "pattern"),
)
"""Parts of llguidance's messages about schemas -> the keyword that they are about."""


def is_constrained(sampling: SamplingParams) -> bool:
    """Whether a matcher decides which tokens are allowed."""
    return sampling.structured_outputs is not None or bool(sampling.bad_words)


def parser_limits() -> LLParserLimits:
    """Return the bounds of a matcher's work and memory; its errors do not echo the output."""
    from llguidance import LLParserLimits

    return LLParserLimits(max_lexer_states=50_000, verbose_errors=False)


def compile_matcher(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """Return a matcher at the start of `grammar`, which has found its first tokens.

    Raises:
        ConstraintError: llguidance cannot keep to the grammar in full, or it allows no output.
    """
    from llguidance import LLMatcher

    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=parser_limits())
    if not matcher.is_error():
        warnings = matcher.get_grammar_warnings()
        if warnings:
            raise _refusal(grammar, warnings[0])
        mask = matcher.compute_bitmask()
        if not matcher.is_error() and not any(mask):
            raise ConstraintError("The constraint allows no output.", "invalid_grammar")
    if matcher.is_error():
        raise _refusal(grammar, matcher.get_error())
    return matcher


def _refusal(grammar: str, message: str) -> ConstraintError:
    reason = message.partition("\n")[0].partition("failed to compile JSON schema: ")
    text = " ".join((reason[2] or reason[0]).split())[:300].rstrip(".")
    if any(word in message for word in ("too complex", "too many", "limit", "fuel", "too large")):
        return ConstraintError(f"The constraint is too complex: {text}.", "grammar_too_complex")
    if grammar.startswith("start: %json"):
        return _schema_refusal(text)
    return ConstraintError(f"The grammar cannot be used: {text}.", "invalid_grammar")


def _schema_refusal(text: str) -> ConstraintError:
    if "Unsatisfiable" in text:
        return ConstraintError(
            f"No value satisfies the JSON schema: {text}.", "invalid_json_schema"
        )
    keyword = next((name for part, name in _KEYWORDS if part in text), None)
    if keyword == "oneOf":
        text = "its alternatives are not known to exclude each other; use 'anyOf'"
    named = f"The JSON schema keyword {keyword!r}" if keyword else "The JSON schema"
    return ConstraintError(f"{named} cannot be enforced: {text}.", "unsupported_json_schema")


class Matchers:
    """Compiles grammars on threads of its own and gives out matchers; safe to use from any thread.

    The tokenizer is read when the first grammar is asked for.
    """

    def __init__(
        self, vocabulary: Callable[[], Vocabulary], limits: StructuredOutputConfig
    ) -> None:
        self._vocabulary = vocabulary
        self._limits = limits
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="windlass-grammars")
        self._kept: OrderedDict[bytes, Future[LLMatcher]] = OrderedDict()
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._tokenizer_lock = threading.Lock()

    def prepare(self, sampling: SamplingParams) -> Future[LLMatcher]:
        """Start to compile what constrains the request; the result raises RequestError."""
        key = constraint_key(sampling)
        with self._lock:
            future = self._kept.get(key)
            if future is None or (future.done() and future.exception() is not None):
                future = self._kept[key] = self._pool.submit(self._compile, sampling)
            self._kept.move_to_end(key)
            while len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
            return future

    def start(self, sampling: SamplingParams, output: list[int]) -> LLMatcher:
        """Return a matcher that has seen `output`; waits where nothing was prepared.

        Raises:
            RequestError: the constraint cannot be kept to.
        """
        matcher = self.prepare(sampling).result().deep_copy()
        matcher.consume_tokens(output)
        return matcher

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _compile(self, sampling: SamplingParams) -> LLMatcher:
        return compile_matcher(self._load(), write_constraint(sampling, self._limits))

    def _load(self) -> LLTokenizer:
        with self._tokenizer_lock:
            if self._tokenizer is None:
                try:
                    self._tokenizer = self._vocabulary().build()
                except ValueError as error:
                    raise RequestError(
                        f"Outputs of this model cannot be constrained: {error}.",
                        param="structured_outputs",
                        code="unsupported_parameter",
                    ) from error
            return self._tokenizer


def write_constraint(sampling: SamplingParams, limits: StructuredOutputConfig) -> str:
    """Return the grammar of what constrains the request.

    Raises:
        ConstraintError: it is broken, or cannot be guaranteed.
    """
    if sampling.structured_outputs is not None:
        return write_grammar(sampling.structured_outputs, limits)
    return bad_words_grammar(tuple(sampling.bad_words or ()))


def constraint_key(sampling: SamplingParams) -> bytes:
    """Return a hash that is the same for the same constraint; raises ConstraintError."""
    if sampling.structured_outputs is not None:
        text = constraint_text(sampling.structured_outputs)
    else:
        text = b"bad words\0" + bad_words_grammar(tuple(sampling.bad_words or ())).encode()
    return hashlib.sha256(text).digest()
