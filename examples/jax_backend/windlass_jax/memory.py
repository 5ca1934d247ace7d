"""What the runner can load, and how much memory is left for the KV cache."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from windlass.backend import Capabilities
from windlass.checkpoint import DecoderConfig, ModelDescription
from windlass.config import EngineConfig
from windlass.errors import OutOfMemoryError, UnsupportedError
from windlass.plugin.host_memory import host_memory
from windlass_jax.attention import KVBlocks
from windlass_jax.model import Cache
from windlass_jax.weights import DTYPES

_GIB = 1 << 30


def check_supported(config: EngineConfig, described: ModelDescription) -> str:
    """The dtype to compute in.

    Raises:
        UnsupportedError: a setting or the model asks for what this runner does not do.
    """
    asked = config.model.dtype
    dtype = (described.dtype or "float32") if asked == "auto" else str(asked)
    refusals = {
        f"dtype {dtype!r} (it has {', '.join(DTYPES)})": dtype not in DTYPES,
        f"quantization {config.model.quantization!r}": config.model.quantization is not None,
        f"kv_cache_dtype {config.cache.dtype!r} (it has 'auto')": config.cache.dtype != "auto",
        "layers with experts": described.decoder.experts is not None,
        f"a head size that is odd ({described.decoder.head_dim})": described.decoder.head_dim % 2,
    }
    reasons = [reason for reason, refused in refusals.items() if refused]
    if reasons:
        raise UnsupportedError(f"backend 'jax' does not do: {'; '.join(reasons)}")
    return dtype


def kv_budget(
    config: EngineConfig,
    capabilities: Capabilities,
    decoder: DecoderConfig,
    dtype: str,
    weight_bytes: int,
) -> int:
    """Bytes for the KV cache: a share of the host's memory, less weights and activations.

    On another device `Device.memory_stats` would tell what the host's files tell here.
    """
    memory = host_memory()
    share = config.cache.memory_utilization or capabilities.memory_utilization
    activations = _activation_bytes(config, capabilities, decoder, dtype)
    # The weights are loaded: what is available does not count them.
    return min(
        int(memory.total * share) - weight_bytes - activations,
        int(memory.available * share) - activations,
    )


def _activation_bytes(
    config: EngineConfig, capabilities: Capabilities, decoder: DecoderConfig, dtype: str
) -> int:
    """A generous estimate of the largest step: a layer's tensors, attention's sums, the logits."""
    scheduler = config.scheduler
    tokens = scheduler.token_budget(capabilities.preferred_token_budget)
    per_token = 6 * decoder.hidden_size + 4 * decoder.mlp_width + 4 * decoder.q_size
    sampled = min(scheduler.max_num_seqs, tokens)
    logits = sampled * decoder.vocab_size * 32
    return 2 * tokens * (per_token * jnp.dtype(dtype).itemsize + 16 * decoder.q_size) + logits


def new_cache(num_layers: int, shape: tuple[int, ...], dtype: str, device: jax.Device) -> Cache:
    """Zeros for the keys and the values of each layer, `shape` `[B, block_size, Hkv, D]` each.

    Raises:
        OutOfMemoryError: they do not fit.
    """

    def zeros() -> jax.Array:
        return jnp.zeros(shape, dtype, device=device)

    try:
        cache = tuple(KVBlocks(zeros(), zeros()) for _ in range(num_layers))
        for blocks in cache:
            blocks.values.block_until_ready()
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        size = 2 * num_layers * math.prod(shape) * jnp.dtype(dtype).itemsize / _GIB
        raise OutOfMemoryError(
            f"reserving {size:.2f} GiB for the KV cache failed: "
            f"{host_memory().available / _GIB:.2f} GiB are free. Lower memory_utilization or "
            f"max_model_len."
        ) from error
    return cache
