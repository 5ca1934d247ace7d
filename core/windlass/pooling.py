"""Embeddings and scores: what a client asks for, what it gets back, and who computes it.

The parameters are validated when they are made, as `SamplingParams` is. No torch.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from windlass.config import ModelInfo
from windlass.errors import RequestError
from windlass.request import Request, RequestMetrics

__all__ = [
    "EmbedParams",
    "Embedding",
    "EmbeddingOutput",
    "PooledBatch",
    "PoolingOutput",
    "PoolingRunner",
    "Score",
    "ScoreParams",
    "ScoringOutput",
    "floats",
]


def _check_at_least_one(params: msgspec.Struct, *names: str, least: str = "at least 1") -> None:
    for name in names:
        value = getattr(params, name)
        minus_one = name == "truncate_prompt_tokens" and value == -1
        if not (value is None or value >= 1 or minus_one):
            raise RequestError(f"{name} must be {least}, not {value!r}.", param=name)


_TRUNCATION = "-1 (as many as fit) or at least 1"


class EmbedParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How texts are embedded; None leaves it to the model.

    `dimensions` shortens an embedding, `normalize` says whether its length becomes 1. A text keeps
    its first `truncate_prompt_tokens` tokens (-1: as many as the model takes), the special tokens
    at its end included; None refuses a text that is too long. `prompt_name` names one of the
    model's prompts.

    Raises:
        RequestError: a value is out of range; `param` names it.
    """

    dimensions: int | None = None
    normalize: bool | None = None
    truncate_prompt_tokens: int | None = None
    prompt_name: str | None = None

    def __post_init__(self) -> None:
        _check_at_least_one(self, "dimensions")
        _check_at_least_one(self, "truncate_prompt_tokens", least=_TRUNCATION)


class ScoreParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How pairs of texts are scored.

    The second text of a pair is cut to its first `max_document_tokens` tokens, and so that the
    whole input has at most `truncate_prompt_tokens` (-1: as many as the model takes); None refuses
    a pair that is too long. `instruction` tells a reranker that asks a language model what it is
    to judge.

    Raises:
        RequestError: a value is out of range; `param` names it.
    """

    truncate_prompt_tokens: int | None = None
    max_document_tokens: int | None = None
    instruction: str | None = None

    def __post_init__(self) -> None:
        _check_at_least_one(self, "max_document_tokens")
        _check_at_least_one(self, "truncate_prompt_tokens", least=_TRUNCATION)


class PoolingOutput(msgspec.Struct, kw_only=True):
    """The whole answer to one request: an entry per text in `vectors`, or per pair in `scores`.

    A vector is float32 numbers, little-endian (`floats` reads them). `prompt_tokens` counts what
    was computed.
    """

    request_id: str
    prompt_tokens: int
    vectors: list[bytes] = []
    scores: list[float] = []
    metrics: RequestMetrics | None = None
    finished: bool = True


class Embedding(msgspec.Struct):
    """One text as numbers."""

    embedding: list[float]


class EmbeddingOutput(msgspec.Struct, kw_only=True):
    """What `LLM.embed` returns for one text."""

    request_id: str
    prompt_token_ids: list[int]
    outputs: Embedding
    finished: bool = True


class Score(msgspec.Struct):
    """How well the second text of a pair answers the first."""

    score: float


class ScoringOutput(msgspec.Struct, kw_only=True):
    """What `LLM.score` returns for one pair."""

    request_id: str
    outputs: Score
    finished: bool = True


def floats(vector: bytes) -> list[float]:
    """Return the numbers of a vector."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


class PooledBatch(Protocol):
    """A launched batch."""

    def collect(self) -> list[bytes | None]:
        """Wait for the batch; a vector per request, None where its numbers are not finite."""
        ...


class PoolingRunner(Protocol):
    """Embeds or scores batches on some hardware: the seam between the engine and an executor."""

    def load(self, progress: Callable[[str, float], None] | None = None) -> ModelInfo:
        """Load weights; `progress` gets (what, share done). The info has `pooling`."""
        ...

    def launch(self, requests: Sequence[Request]) -> PooledBatch:
        """Start a batch of texts of similar length without waiting for it."""
        ...

    def reset(self) -> None:
        """Make sure after a failed batch that the device still works; raises when not."""
        ...

    def close(self) -> None:
        """Give back device memory and threads."""
        ...
