"""The packed cache: where numbers lie, the way there and back, and attention over it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from windlass.backend import (
    AttentionParams,
    BackendConfig,
    KVLayout,
    KVPool,
    KVSpec,
    TorchBackend,
)
from windlass.kernels.kv_quantization import indexable
from windlass.plugin import BackendSpec
from windlass.testing.paged_step import LAYER, build_step
from windlass_rocm.attention import RocmAttention
from windlass_rocm.packed_layout import PackedKVLayout
from windlass_rocm.tuning import RocmTuning

BLOCKS, SIZE, HEADS, DIM = 5, 16, 2, 32


class PackedBackend(TorchBackend):
    """The host, with the plugin's attention in the interpreter, over a packed cache."""

    def __init__(self, arch: str = "gfx942", block_size: int = SIZE) -> None:
        super().__init__(
            BackendSpec(name="packed", target="", device_type="cpu", priority=0), BackendConfig()
        )
        self.block_size = block_size
        self.attention = RocmAttention(RocmTuning(arch, 3, "cpu"), aiter_installed=False)

    def kv_layouts(self, spec: KVSpec) -> Sequence[KVLayout]:
        return (PackedKVLayout(block_size=self.block_size),)


def pool_of(dtype: torch.dtype) -> KVPool:
    spec = KVSpec(num_kv_heads=HEADS, head_dim=DIM, dtype=dtype)
    layout = PackedKVLayout(block_size=SIZE)
    buffer = torch.zeros(BLOCKS * layout.block_bytes(spec, 2), dtype=torch.uint8)
    return KVPool.carve(buffer, spec, layout, 2, BLOCKS)


@pytest.mark.parametrize(
    ("dtype", "pack"), [(torch.float16, 8), (torch.float32, 4), (torch.float8_e4m3fnuz, 16)]
)
def test_sixteen_bytes_of_a_key_and_neighbouring_tokens_of_a_value_lie_side_by_side(
    dtype: torch.dtype, pack: int
) -> None:
    pool = pool_of(dtype)
    key, value = (torch.randn(3, HEADS, DIM).clamp(-2, 2) for _ in range(2))
    slots = torch.tensor([2 * SIZE + 3, -1, 4 * SIZE + 15])
    PackedBackend().attention.write_kv(pool, 1, key, value, slots)
    keys = pool.buffer.view(dtype)[: 2 * BLOCKS * HEADS * DIM * SIZE]
    values = pool.buffer.view(dtype)[keys.numel() :]
    for head, channel in ((0, 0), (1, pack + 1), (1, DIM - 1)):
        for row, slot in ((0, 2 * SIZE + 3), (2, 4 * SIZE + 15)):
            # Numbers before a block's head: those of layer 0, and of blocks and heads before.
            start = ((BLOCKS + slot // SIZE) * HEADS + head) * DIM * SIZE
            of_key = start + channel // pack * SIZE * pack + slot % SIZE * pack + channel % pack
            of_value = start + channel * SIZE + slot % SIZE
            for there, numbers, new in ((of_key, keys, key), (of_value, values, value)):
                assert numbers[there].float() == new[row, head, channel].to(dtype).float()
    written = sum((indexable(side[1]) != 0).any().item() for side in (pool.keys, pool.values))
    assert written == 2
    assert not indexable(pool.keys[0]).any()
    # Padding went to the null block, and to no other.
    assert not indexable(pool.keys[1])[[1, 3]].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn])
def test_what_is_exported_can_be_imported_elsewhere(dtype: torch.dtype) -> None:
    attention, pool, other = PackedBackend().attention, pool_of(dtype), pool_of(dtype)
    key, value = (torch.randn(BLOCKS * SIZE, HEADS, DIM) for _ in range(2))
    attention.write_kv(pool, 0, key, value, torch.arange(BLOCKS * SIZE))
    source, target = torch.tensor([4, 1, 2]), torch.tensor([1, 3, 4])
    blocks = attention.export_blocks(pool, 0, source)
    assert blocks.shape == (3, 2, SIZE, HEADS, DIM)
    expected = key.view(BLOCKS, SIZE, HEADS, DIM)[source].to(dtype)
    assert torch.equal(blocks[:, 0], indexable(expected))
    attention.import_blocks(other, 0, target, blocks)
    assert torch.equal(attention.export_blocks(other, 0, target), blocks)
    assert not indexable(other.values[0])[[0, 2]].any()


@pytest.mark.parametrize(
    ("arch", "head_dim", "dtype"),
    [
        ("gfx942", 64, torch.float16),
        ("gfx1100", 80, torch.float32),
        ("gfx1100", 256, torch.float16),
    ],
)
def test_attention_over_a_packed_cache_is_the_oracles(
    arch: str, head_dim: int, dtype: torch.dtype
) -> None:
    backend = PackedBackend(arch, 16)
    params = AttentionParams(scale=head_dim**-0.5)
    step = build_step(
        backend, query_lens=[1, 1, 20], seq_lens=[40, 17, 33], head_dim=head_dim, dtype=dtype
    )
    expected, expected_lse = step.expected(params)
    out, lse = torch.empty_like(expected), torch.empty_like(expected_lse)
    plan = backend.attention.plan(step.batch, step.pool)
    backend.attention.run(step.pool, LAYER, step.query, plan, params, out, lse)
    torch.testing.assert_close(out, expected, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(lse, expected_lse, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "head_dim", "reason"),
    [(torch.int8, 64, "no place for scales"), (torch.float16, 44, "do not fill packs of 8")],
)
def test_what_cannot_be_packed_is_refused(dtype: torch.dtype, head_dim: int, reason: str) -> None:
    spec = KVSpec(num_kv_heads=2, head_dim=head_dim, dtype=dtype)
    layout = PackedKVLayout()
    supports = PackedBackend().attention.supports
    said = supports(spec, layout, torch.float16, AttentionParams(scale=1.0))
    assert reason in said.reason
    with pytest.raises(ValueError, match=reason):
        layout.views(torch.zeros(1 << 16, dtype=torch.uint8), spec, 1, 1)
