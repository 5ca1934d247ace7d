"""What the server needs of an engine: the interface of `windlass.async_engine.AsyncEngine`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol, TypeVar

from windlass.config import ModelInfo
from windlass.engine.outputs import EngineStats
from windlass.engine.view import EngineView
from windlass.pooling import EmbedParams, PoolingOutput, ScoreParams
from windlass.request import RequestOutput, SamplingParams
from windlass.text import Prompt, Tokenizer

Output_co = TypeVar("Output_co", covariant=True)


class RequestStream(Protocol[Output_co]):
    """The outputs of one request; closing it aborts what is not finished."""

    def __aiter__(self) -> AsyncIterator[Output_co]:
        """Iterate; raises RequestFailedError or EngineDeadError."""
        ...

    def abort(self) -> None:
        """Stop the request unless it has ended; the iteration ends."""
        ...

    async def aclose(self) -> None:
        """Abort the request unless it has ended."""
        ...


class Engine(Protocol):
    """An engine that runs elsewhere and is talked to with await."""

    info: ModelInfo
    tokenizer: Tokenizer
    default_sampling: dict[str, Any]

    async def submit(
        self,
        prompt: Prompt,
        sampling: SamplingParams,
        request_id: str | None = None,
        *,
        priority: int = 0,
        cache_salt: str = "",
        delta: bool = False,
    ) -> RequestStream[RequestOutput]:
        """Queue a request; raises RequestError or EngineDeadError before anything is queued."""
        ...

    async def embed(
        self,
        inputs: Sequence[str | list[int]],
        params: EmbedParams,
        request_id: str | None = None,
        *,
        priority: int = 0,
    ) -> RequestStream[PoolingOutput]:
        """Queue texts to embed; raises what `submit` raises."""
        ...

    async def score(
        self,
        pairs: Sequence[tuple[str, str]],
        params: ScoreParams,
        request_id: str | None = None,
        *,
        priority: int = 0,
    ) -> RequestStream[PoolingOutput]:
        """Queue pairs of texts to score; raises what `submit` raises."""
        ...

    def stats(self) -> EngineStats:
        """Return the gauges and counters last reported."""
        ...

    async def view(self) -> EngineView:
        """Return what stands where in the engine; raises EngineDeadError."""
        ...

    def check_health(self) -> None:
        """Raise EngineDeadError when the engine is dead or hangs."""
        ...

    @property
    def restarts(self) -> int:
        """How often a dead engine process was replaced."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether requests are accepted now."""
        ...

    async def shutdown(self) -> None:
        """End the engine process."""
        ...
