"""Sizing the KV cache: enough, never more than useful, clear words when it does not fit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from windlass.backend import (
    SUPPORTED,
    Attention,
    BackendConfig,
    KVSpec,
    MemoryInfo,
    Support,
    TorchAttention,
    TorchBackend,
    torch_backend,
)
from windlass.config import (
    CacheConfig,
    EngineConfig,
    KVCacheDType,
    ModelConfig,
    SchedulerConfig,
)
from windlass.errors import ConfigError, OutOfMemoryError, UnsupportedError
from windlass.executor.kv_cache import KVCache, allocate_kv_cache
from windlass.loader import load_decoder
from windlass.plugin import BackendSpec

BYTES_PER_TOKEN = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, channels, float32


def allocate(
    folder: Path, *, free: int, max_model_len: int | None = None, **cache: int | float | str | None
) -> KVCache:
    config = EngineConfig(
        model=ModelConfig(model=str(folder), dtype="float32", max_model_len=max_model_len),
        cache=CacheConfig(**cache),  # type: ignore[arg-type]
        scheduler=SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=16),
    )
    spec = BackendSpec(name="reference", target="", device_type="cpu", priority=1)
    backend = TorchBackend(spec, BackendConfig())
    backend.device.memory = lambda: MemoryInfo(total=1 << 40, free=free)  # type: ignore[method-assign]
    return allocate_kv_cache(config, backend, load_decoder(config.model, backend))


def test_plenty_of_memory_gives_what_all_sequences_could_fill(model_folder: Path) -> None:
    cache = allocate(model_folder, free=1 << 32)
    assert cache.pool.num_blocks == 4 * 128 // 16 + 1
    assert cache.max_model_len == 128


def test_little_memory_shortens_the_context_that_nobody_asked_for(
    model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    free = 65_000
    cache = allocate(model_folder, free=free, memory_utilization=1.0)
    assert 16 <= cache.max_model_len < 128
    assert cache.max_model_len == (cache.pool.num_blocks - 1) * 16
    assert "max_model_len is lowered from 128" in caplog.text
    assert cache.pool.buffer.nbytes <= free


def test_a_context_that_was_asked_for_must_fit(model_folder: Path) -> None:
    with pytest.raises(OutOfMemoryError, match="max_model_len 100 needs a KV cache of"):
        allocate(model_folder, free=80_000, max_model_len=100, memory_utilization=1.0)


def test_a_default_bound_holds_until_a_share_is_asked_for(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded = replace(torch_backend._HOST, default_kv_cache_bytes=20 * 16 * BYTES_PER_TOKEN)
    monkeypatch.setattr(torch_backend, "_HOST", bounded)
    assert allocate(model_folder, free=1 << 32).pool.num_blocks == 20 + 1
    assert allocate(model_folder, free=1 << 32, memory_utilization=0.5).pool.num_blocks == 33
    tiny = replace(torch_backend._HOST, default_kv_cache_bytes=1)
    monkeypatch.setattr(torch_backend, "_HOST", tiny)
    assert allocate(model_folder, free=1 << 32).max_model_len == 128


def test_the_number_of_blocks_can_be_given(model_folder: Path) -> None:
    cache = allocate(model_folder, free=0, num_blocks=20, block_size=8)
    assert (cache.pool.num_blocks, cache.pool.block_size) == (20, 8)
    assert cache.pool.buffer.nbytes == 20 * 8 * BYTES_PER_TOKEN


@pytest.mark.parametrize(("dtype", "head_bytes"), [("int8", 8 + 4), ("fp8", 8), ("fp8_e4m3", 8)])
def test_a_quantized_cache_holds_more_tokens(
    model_folder: Path, dtype: KVCacheDType, head_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    plain = allocate(model_folder, free=65_000, memory_utilization=1.0)
    cache = allocate(model_folder, free=65_000, memory_utilization=1.0, dtype=dtype)
    bytes_per_token = 2 * 2 * 2 * head_bytes
    assert cache.dtype == dtype.removesuffix("_e4m3")
    assert cache.pool.buffer.nbytes == cache.pool.num_blocks * 16 * bytes_per_token <= 65_000
    assert cache.pool.num_blocks >= plain.pool.buffer.nbytes // (16 * bytes_per_token) > 7
    assert f"{bytes_per_token} bytes a token" in caplog.text


def test_the_backend_says_which_fp8_it_has(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_negative_zero = replace(torch_backend._HOST, fp8_dtype=torch.float8_e4m3fnuz)
    monkeypatch.setattr(torch_backend, "_HOST", without_negative_zero)
    cache = allocate(model_folder, free=1 << 32, dtype="fp8")
    assert cache.dtype == "fp8"
    assert cache.pool.spec.dtype == torch.float8_e4m3fnuz


def test_a_format_that_attention_does_not_have_is_refused(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supports(self: Attention, spec: KVSpec, *args: object) -> Support:
        return Support.no("no int8") if spec.dtype is torch.int8 else SUPPORTED

    monkeypatch.setattr(TorchAttention, "supports", supports)
    with pytest.raises(UnsupportedError, match=r"'int8' is not .* 'reference', .*: auto, fp8$"):
        allocate(model_folder, free=1 << 32, dtype="int8")
    monkeypatch.delattr(TorchAttention, "supports")
    with pytest.raises(UnsupportedError, match=r"'fp8' is not .* torch.float32.*It has: auto$"):
        allocate(model_folder, free=1 << 32, dtype="fp8")


def test_a_block_size_the_backend_cannot_use_is_refused(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picky = replace(torch_backend._HOST, block_multiple=32, preferred_block_size=32)
    monkeypatch.setattr(torch_backend, "_HOST", picky)
    with pytest.raises(ConfigError, match="block_size 48 is not a multiple of 32"):
        allocate(model_folder, free=1 << 32, block_size=48)


def test_a_layer_that_attention_cannot_run_is_refused_at_load(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supports(self: Attention, *args: object) -> Support:
        return Support.no("no heads of 8")

    monkeypatch.setattr(TorchAttention, "supports", supports)
    with pytest.raises(UnsupportedError, match="'reference' cannot run layer 0: no heads of 8"):
        allocate(model_folder, free=1 << 32)


def test_a_budget_that_nobody_set_is_the_backends() -> None:
    assert SchedulerConfig().token_budget(4096) == 4096
    assert SchedulerConfig(max_num_batched_tokens=7).token_budget(4096) == 7
