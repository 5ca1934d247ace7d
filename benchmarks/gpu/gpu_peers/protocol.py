"""What the script and an engine's worker say to each other, on the protocol of `peers`.

Only the standard library is imported: every environment can run this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol

from gpu_peers.workloads import Arrivals
from peers.protocol import Batch, Message, serve


@dataclass(frozen=True)
class Settings:
    """How to load an engine.

    `memory` is the share of the device's memory for weights and cache, `batched_tokens` the token
    budget of a step (None: the engine's own), `online` asks for the engine that takes requests one
    by one. Weights are random.
    """

    model: str
    device: str
    dtype: str
    max_model_len: int
    max_num_seqs: int
    memory: float
    batched_tokens: int | None
    quantization: str | None
    kv_cache_dtype: str
    enforce_eager: bool
    online: bool


@dataclass(frozen=True)
class Answered:
    """A batch: seconds from the submission of all to the last token of the last one."""

    seconds: float
    counts: list[int]


@dataclass(frozen=True)
class Served:
    """Requests that came one by one.

    In seconds: from each one's arrival to its first and last token, all distances between two news
    of one request, and from the start to the end of the last one.
    """

    first: list[float]
    end: list[float]
    counts: list[int]
    gaps: list[float]
    seconds: float


class Engine(Protocol):
    """What a worker serves."""

    def ceilings(self, device: str) -> Mapping[str, float]:
        """What the device can do; asked before `load`. Empty where the engine's process does not
        touch the device itself."""

    def load(self, settings: Settings) -> Mapping[str, object]:
        """Load the model; return what a reader of the figures should know."""

    def run(self, batch: Batch) -> Answered:
        """Answer the requests greedily, each with exactly its number of output tokens."""

    def serve(self, arrivals: Arrivals) -> Served:
        """The same for requests that come one by one."""


def serve_engine(engine: Engine) -> None:
    """Answer the script's requests until it closes the pipe."""

    def ceilings(request: Message) -> Message:
        return dict(engine.ceilings(request["device"]))

    def load(request: Message) -> Message:
        return {"notes": dict(engine.load(Settings(**request)))}

    def run(request: Message) -> Message:
        return asdict(engine.run(Batch(**request)))

    def serve_arrivals(request: Message) -> Message:
        return asdict(engine.serve(Arrivals(**request)))

    serve({"ceilings": ceilings, "load": load, "run": run, "serve": serve_arrivals})
