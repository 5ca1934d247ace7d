"""Layouts are permutations of one logical cache, and know where a block's bytes lie."""

import itertools
from dataclasses import replace

import pytest
import torch

from windlass.backend import KVLayout, KVPool, KVSpec, TorchBackend

SPEC = KVSpec(num_kv_heads=2, head_dim=3, dtype=torch.float32)
QUANTIZED = (torch.int8, torch.float8_e4m3fn)
LAYERS, BLOCKS = 2, 5
LAYOUTS = [
    KVLayout(order="".join(order), kv="packed" if packed else "split", block_size=4)
    for order in itertools.permutations("LBNHC")
    for packed in (False, True)
]


def carve(layout: KVLayout, dtype: torch.dtype = torch.float32) -> KVPool:
    spec = replace(SPEC, dtype=dtype)
    buffer = torch.zeros(BLOCKS * layout.block_bytes(spec, LAYERS), dtype=torch.uint8)
    return KVPool.carve(buffer, spec, layout, LAYERS, BLOCKS)


def test_every_layout_keeps_every_number_apart() -> None:
    for layout in LAYOUTS:
        pool = carve(layout)
        views = [*pool.keys, *pool.values]
        assert all(view.shape == (BLOCKS, 4, 2, 3) for view in views)
        numbers = torch.arange(len(views) * views[0].numel(), dtype=torch.float32)
        for view, part in zip(views, numbers.view(len(views), BLOCKS, 4, 2, 3), strict=True):
            view.copy_(part)
        stored = torch.stack(views).flatten()
        assert torch.equal(stored, numbers), layout
        assert torch.equal(pool.buffer.view(torch.float32).sort().values, numbers), layout


def test_segments_are_exactly_a_blocks_bytes() -> None:
    for layout in LAYOUTS:
        pool = carve(layout)
        for view in (*pool.keys, *pool.values):
            view[3] = 1.0
        touched = pool.buffer.view(torch.float32) != 0
        covered = torch.zeros_like(touched)
        for offset, length in pool.segments(3):
            covered[offset // 4 : (offset + length) // 4] = True
        assert torch.equal(covered, touched), layout


@pytest.mark.parametrize("dtype", QUANTIZED)
def test_a_block_of_bytes_and_scales_lies_in_its_segments(dtype: torch.dtype) -> None:
    for layout in LAYOUTS:
        pool = carve(layout, dtype)
        assert sum(part.nbytes for part in pool.parts) == pool.buffer.nbytes, layout
        for part in pool.parts:
            part[3] = 127
        covered = torch.zeros_like(pool.buffer, dtype=torch.bool)
        for offset, length in pool.segments(3):
            covered[offset : offset + length] = True
        assert int(covered.sum()) == layout.block_bytes(pool.spec, LAYERS), layout
        assert not pool.buffer[~covered].any(), layout


def test_a_number_of_int8_takes_a_byte_and_a_head_four_more() -> None:
    spec = KVSpec(num_kv_heads=8, head_dim=128, dtype=torch.int8)
    assert KVLayout(block_size=16).block_bytes(spec, 3) == 2 * 3 * 16 * 8 * (128 + 4)
    fp8 = replace(spec, dtype=torch.float8_e4m3fn)
    assert KVLayout(block_size=16).block_bytes(fp8, 3) == 2 * 3 * 16 * 8 * 128


def test_segments_count_from_the_buffers_start(backend: TorchBackend) -> None:
    layout = KVLayout(order="LBHNC", block_size=4, align=4096)
    nbytes = BLOCKS * layout.block_bytes(SPEC, LAYERS)
    buffer = backend.allocator.reserve(nbytes, align=4096, tag="test")
    pool = KVPool.carve(buffer, SPEC, layout, LAYERS, BLOCKS)
    assert pool.segments(0)[0][0] == 0


def test_a_block_major_layout_is_one_segment() -> None:
    layout = KVLayout(order="BLNHC", kv="packed", block_size=4)
    assert carve(layout).segments(2) == [(2 * layout.block_bytes(SPEC, LAYERS), 384)]


def test_an_order_that_is_no_permutation_is_refused() -> None:
    with pytest.raises(ValueError, match="permutation of 'LBNHC', not 'LBNH'"):
        KVLayout(order="LBNH")


def test_export_and_import_round_trip_between_layouts(backend: TorchBackend) -> None:
    source, target = carve(LAYOUTS[3]), carve(LAYOUTS[40])
    for view in (*source.keys, *source.values):
        view.copy_(torch.randn(view.shape))
    there, here = torch.tensor([1, 4]), torch.tensor([3, 2])
    blocks = backend.attention.export_blocks(source, 1, there)
    assert blocks.shape == (2, 2, 4, 2, 3)
    backend.attention.import_blocks(target, 1, here, blocks)
    assert torch.equal(target.keys[1][here], source.keys[1][there])
    assert torch.equal(target.values[1][here], source.values[1][there])


@pytest.mark.parametrize("dtype", QUANTIZED)
def test_quantized_blocks_travel_with_their_scales(
    backend: TorchBackend, dtype: torch.dtype
) -> None:
    source, target = carve(LAYOUTS[3], dtype), carve(LAYOUTS[40], dtype)
    backend.attention.write_kv(
        source, 1, torch.randn(20, 2, 3), torch.randn(20, 2, 3), torch.arange(20)
    )
    there, here = torch.tensor([1, 4]), torch.tensor([3, 2])
    blocks = backend.attention.export_blocks(source, 1, there)
    assert blocks.dtype is torch.uint8
    backend.attention.import_blocks(target, 1, here, blocks)
    for one, other in zip(source.parts[1::2], target.parts[1::2], strict=True):
        assert torch.equal(other[here], one[there])
