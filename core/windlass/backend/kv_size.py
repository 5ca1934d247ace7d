"""How many blocks a KV cache gets, and how long a sequence may then be. No torch."""

from __future__ import annotations

import logging
from collections.abc import Callable

from windlass.backend.capabilities import Capabilities
from windlass.config import EngineConfig
from windlass.errors import OutOfMemoryError

logger = logging.getLogger(__name__)
_GIB = 1 << 30


def size_kv_cache(
    config: EngineConfig,
    capabilities: Capabilities,
    *,
    max_model_len: int,
    block_size: int,
    block_bytes: int,
    budget: Callable[[], int],
) -> tuple[int, int]:
    """(blocks, context length): as many blocks as memory allows and the sequences could ever fill.

    `max_model_len` and `block_size` are in tokens; a block takes `block_bytes` over all layers.
    `budget` tells the bytes that are left for the cache; it is asked unless the user gave a number
    of blocks. One block, the null block, holds no sequence.

    Raises:
        OutOfMemoryError: the cache cannot hold one sequence of the length that was asked for.
    """
    if config.cache.num_blocks is not None:
        num_blocks = config.cache.num_blocks
    else:
        longest = -(-max_model_len // block_size)
        useful = config.scheduler.max_num_seqs * longest
        cap = capabilities.default_kv_cache_bytes
        if cap and config.cache.memory_utilization is None:
            useful = min(useful, max(cap // block_bytes, longest))
        num_blocks = min(budget() // block_bytes, useful + 1)
    max_model_len = _fit(config, block_size, block_bytes, num_blocks, max_model_len)
    logger.info(
        "KV cache: %d blocks of %d tokens, %d bytes a token, %.2f GiB",
        num_blocks,
        block_size,
        block_bytes // block_size,
        num_blocks * block_bytes / _GIB,
    )
    return num_blocks, max_model_len


def _fit(
    config: EngineConfig, block_size: int, block_bytes: int, num_blocks: int, max_model_len: int
) -> int:
    """The longest sequence the cache can hold, at most `max_model_len`."""
    capacity = (num_blocks - 1) * block_size
    if capacity >= max_model_len:
        return max_model_len
    if capacity < block_size or config.model.max_model_len is not None:
        needed = -(-max_model_len // block_size) + 1
        raise OutOfMemoryError(
            f"max_model_len {max_model_len} needs a KV cache of "
            f"{needed * block_bytes / _GIB:.2f} GiB, and "
            f"{max(num_blocks, 0) * block_bytes / _GIB:.2f} GiB are left for it. Lower "
            f"max_model_len (at most {max(capacity, 0)} fits) or raise memory_utilization."
        )
    logger.warning(
        "the KV cache holds %d tokens: max_model_len is lowered from %d to %d",
        capacity,
        max_model_len,
        capacity,
    )
    return capacity
