"""What `/load` and `/server_info` answer."""

from __future__ import annotations

from typing import Any

import msgspec

from windlass.config import ModelInfo


class ModelLoad(msgspec.Struct):
    """How busy the engine of one model is; sequences and tokens, KV use from 0 to 1."""

    model: str
    status: str
    num_running_reqs: int = 0
    num_waiting_reqs: int = 0
    num_waiting_tokens: int = 0
    kv_cache_usage: float = 0.0


class Load(msgspec.Struct):
    """How busy the server is: the sums of its models, and the fullest KV cache.

    `server_load` is vLLM's name for all sequences, the other names are SGLang's.
    """

    server_load: int
    num_reqs: int
    num_running_reqs: int
    num_waiting_reqs: int
    kv_cache_usage: float
    models: list[ModelLoad]


class ServedModelInfo(msgspec.Struct):
    """One model: its names, what it is doing, and the engine's facts once it was loaded."""

    model: str
    status: str
    restarts: int | None
    engine: ModelInfo | None


class ServerInfo(msgspec.Struct):
    """What runs here; no secret is among the settings."""

    version: str
    python: str
    platform: str
    packages: dict[str, str]
    uptime_seconds: float
    settings: dict[str, Any]
    models: list[ServedModelInfo]
