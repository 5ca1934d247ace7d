"""Every setting of the engine, in one place: frozen, validated, serialisable.

`EngineConfig` is built once (from Python arguments or from the command line), sent to the engine
process as msgpack and never changed. A value of `None` or "auto" is resolved when the model and
the backend are known; what was resolved is reported in `ModelInfo`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from windlass.errors import ConfigError

DType = Literal["auto", "bfloat16", "float16", "float32"]
KVCacheDType = Literal["auto", "int8", "fp8", "fp8_e4m3"]
LoadFormat = Literal["auto", "dummy"]
Quantization = Literal["int8", "int4", "fp8"]
SchedulingPolicy = Literal["fcfs", "priority"]
RunnerKind = Literal["auto", "generate", "pooling"]
PoolingMethod = Literal["cls", "mean", "last"]
PoolingTask = Literal["embed", "score"]


class _Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


def _require(ok: bool, field: str, value: object, allowed: str) -> None:
    if not ok:
        raise ConfigError(f"{field} must be {allowed}, not {value!r}")


class ModelConfig(_Config, frozen=True):
    """Which model, in which number format.

    `model` is a local folder or a hub id; `load_format="dummy"` fills the weights with seeded
    random numbers (benchmarks, tests). `max_model_len` is in tokens, prompt and output together.
    `quantization` rounds the weights of linear layers while they are loaded.
    """

    model: str
    tokenizer: str | None = None
    revision: str | None = None
    dtype: DType = "auto"
    quantization: Quantization | None = None
    load_format: LoadFormat = "auto"
    max_model_len: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _require(bool(self.model), "model", self.model, "a folder or a hub id")
        length = self.max_model_len
        _require(length is None or length >= 1, "max_model_len", length, "at least 1")

    @property
    def tokenizer_location(self) -> tuple[str, str | None]:
        """Folder or hub id of the tokenizer, and its revision (which is the model's only)."""
        if self.tokenizer is None or self.tokenizer == self.model:
            return self.model, self.revision
        return self.tokenizer, None


class CacheConfig(_Config, frozen=True):
    """How the KV cache is cut and sized.

    `block_size` is in tokens (None: the backend's preference); `num_blocks` overrides the size
    that is derived from memory; `memory_utilization` is the share of the device memory that
    weights and cache together may use (None: the backend's default). `dtype` is what keys and
    values are stored in: "auto" (as the model computes), "int8", or "fp8", also called "fp8_e4m3".
    """

    block_size: int | None = None
    num_blocks: int | None = None
    memory_utilization: float | None = None
    enable_prefix_caching: bool = True
    dtype: KVCacheDType = "auto"

    def __post_init__(self) -> None:
        size, blocks, share = self.block_size, self.num_blocks, self.memory_utilization
        _require(size is None or 1 <= size <= 1024, "block_size", size, "from 1 to 1024")
        _require(blocks is None or blocks >= 2, "num_blocks", blocks, "at least 2")
        _require(share is None or 0 < share <= 1, "memory_utilization", share, "in (0, 1]")


class SchedulerConfig(_Config, frozen=True):
    """The bounds of one step and of the waiting queue.

    `max_num_batched_tokens` is the token budget of a step, prefill and decode together (None: the
    backend's preference).
    `max_queued_requests` and `max_queued_tokens` bound what waits for admission (0: no bound).
    """

    max_num_seqs: int = 256
    max_num_batched_tokens: int | None = None
    policy: SchedulingPolicy = "fcfs"
    max_queued_requests: int = 2048
    max_queued_tokens: int = 0

    def __post_init__(self) -> None:
        seqs, tokens = self.max_num_seqs, self.max_num_batched_tokens
        _require(1 <= seqs <= 65536, "max_num_seqs", seqs, "from 1 to 65536")
        _require(tokens is None or tokens >= 1, "max_num_batched_tokens", tokens, "at least 1")
        _require(
            self.max_queued_requests >= 0, "max_queued_requests", self.max_queued_requests, ">= 0"
        )
        _require(self.max_queued_tokens >= 0, "max_queued_tokens", self.max_queued_tokens, ">= 0")

    def token_budget(self, preferred: int) -> int:
        """Most tokens in a step, where `preferred` is the backend's wish."""
        return self.max_num_batched_tokens or preferred


class BackendConfig(_Config, frozen=True):
    """Which hardware plugin, and which op providers are preferred.

    `backend` is "auto" or the name of a plugin, `device_index` one of its devices. `ops` maps an
    op name to provider names in order of preference ("reference" is the torch reference).
    `allow_cpu_fallback` lets "auto" go on with a lower priority when an accelerator is broken.
    `disabled_plugins` are never imported. `enforce_eager` runs every step op by op, without graphs.
    """

    backend: str = "auto"
    device_index: int = 0
    ops: dict[str, list[str]] = {}
    allow_cpu_fallback: bool = False
    disabled_plugins: tuple[str, ...] = ()
    enforce_eager: bool = False

    def __post_init__(self) -> None:
        _require(self.device_index >= 0, "device_index", self.device_index, "at least 0")


class StructuredOutputConfig(_Config, frozen=True):
    """The bounds of what an output can be constrained by.

    A schema, regular expression or grammar has at most `max_bytes` bytes of UTF-8, a schema at most
    `max_depth` schemas inside each other. It is compiled beside the engine by one of `num_workers`
    processes, in `cpu_seconds` of processor time and `memory_bytes` of memory. `cache_bytes` bounds
    the results that are remembered.
    """

    max_bytes: int = 1 << 20
    max_depth: int = 64
    cpu_seconds: float = 5.0
    memory_bytes: int = 512 << 20
    num_workers: int = 2
    cache_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        for name in ("max_bytes", "memory_bytes", "num_workers"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(1 <= self.max_depth <= 256, "max_depth", self.max_depth, "from 1 to 256")
        _require(self.cpu_seconds > 0, "cpu_seconds", self.cpu_seconds, "above 0")
        _require(self.cache_bytes >= 0, "cache_bytes", self.cache_bytes, "at least 0")


class PoolingConfig(_Config, frozen=True):
    """Whether a model embeds and scores instead of generating, and how.

    `runner` "auto" asks the checkpoint, as do `method` None (which token's state stands for the
    text) and `task` None. `matryoshka` allows `dimensions` although the checkpoint does not say
    that its embeddings can be shortened. A request may have `max_inputs` texts (or pairs of texts)
    with `max_input_tokens` tokens together.
    """

    runner: RunnerKind = "auto"
    method: PoolingMethod | None = None
    task: PoolingTask | None = None
    matryoshka: bool = False
    max_inputs: int = 2048
    max_input_tokens: int = 300_000

    def __post_init__(self) -> None:
        for name in ("max_inputs", "max_input_tokens"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")


class EngineConfig(_Config, frozen=True):
    """All settings of one engine. `step_timeout` is in seconds: how long a step may take before
    the engine counts as hung (the first step may take five times as long). `logits_processors`
    names the plugins of that kind that requests may ask for."""

    model: ModelConfig
    cache: CacheConfig = CacheConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    backend: BackendConfig = BackendConfig()
    structured_output: StructuredOutputConfig = StructuredOutputConfig()
    pooling: PoolingConfig = PoolingConfig()
    logits_processors: tuple[str, ...] = ()
    step_timeout: float = 60.0

    def __post_init__(self) -> None:
        _require(self.step_timeout > 0, "step_timeout", self.step_timeout, "above 0")


def check_config(config: EngineConfig) -> EngineConfig:
    """Return the config after checking the type of every field, as its journey to the engine does.

    Raises:
        ConfigError: a field has a wrong type or an unknown value; the message names it.
    """
    try:
        return msgspec.convert(msgspec.to_builtins(config), EngineConfig)
    except (msgspec.ValidationError, TypeError) as error:
        raise ConfigError(f"a setting is wrong: {error}") from error


class PoolingInfo(_Config, frozen=True):
    """What a model that embeds or scores was found to be.

    An embedding has `dimensions` numbers, and may be shortened to fewer where `matryoshka` says so
    (to one of `matryoshka_dimensions` where there are any). `prompts` are texts to put before an
    input, by name; the one named `default_prompt` is put there unless a request names another, and
    counts in a mean only if `include_prompt`. `takes_types` says that the two texts of a pair are
    told apart by token types. `asks_yes_or_no` says that a pair is scored by a question to a
    language model.
    """

    task: PoolingTask
    method: PoolingMethod
    dimensions: int
    normalize: bool = True
    matryoshka: bool = False
    matryoshka_dimensions: tuple[int, ...] = ()
    prompts: dict[str, str] = {}
    default_prompt: str | None = None
    include_prompt: bool = True
    takes_types: bool = False
    asks_yes_or_no: bool = False


class ModelInfo(_Config, frozen=True):
    """What was resolved when the model was loaded; sent from the engine to its front ends.

    `kv_cache_dtype` is "auto" for a cache in the model's `dtype`, else "int8" or "fp8".
    Sizes in tokens (`max_model_len`, `block_size`), blocks (`num_blocks`), bytes (`weight_bytes`,
    `kv_cache_bytes`), seconds (`load_seconds`). `dtype` is that of activations, and of weights
    unless `quantization` says otherwise. `structured_outputs` says whether the runner can restrict
    the tokens of a request, `logits_processors` which plugins of that kind it has loaded.
    `pooling` is there for a model that embeds or scores, which has no KV cache.
    """

    model: str
    architecture: str
    backend: str
    device: str
    dtype: str
    vocab_size: int
    max_model_len: int
    block_size: int
    num_blocks: int
    max_num_seqs: int
    num_parameters: int
    weight_bytes: int
    kv_cache_bytes: int
    load_seconds: float
    max_num_batched_tokens: int = 2048
    eos_token_ids: tuple[int, ...] = ()
    kv_cache_dtype: str = "auto"
    quantization: Quantization | None = None
    structured_outputs: bool = False
    logits_processors: tuple[str, ...] = ()
    pooling: PoolingInfo | None = None
