"""L3: what is written to the cache, what leaves it and comes back, and where its bytes lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from windlass.backend import Attention, AttentionParams, Backend, HeadNorm, KVPool, KVSpec
from windlass.kernels.kv_quantization import indexable, quantize_kv
from windlass.testing.conformance.cases import Skipped, expect
from windlass.testing.conformance.compare import close, short

_LAYERS, _BLOCKS = 2, 6
_KV_HEADS, _HEADS, _HEAD_DIM = 2, 4, 64
_FILL = 3
"""The byte that unwritten memory holds: a small number in every format."""


def kv_cases(backend: Backend) -> Iterator[tuple[str, Callable[[], None]]]:
    """(name, check) of every case of a cache's contents."""
    for dtype in backend.capabilities.dtypes:
        for kv_dtype in (dtype, torch.int8, backend.capabilities.fp8_dtype):
            cache = "" if kv_dtype is dtype else f" over {short(kv_dtype)}"
            for name, check in (
                ("write_kv writes its slots and no other", _write),
                ("export and import", _round_trip),
                ("segments are the block's bytes", _segments),
            ):
                yield f"{short(dtype)}{cache} {name}", partial(check, backend, dtype, kv_dtype)
        for has_norm in (False, True):
            name = f"{short(dtype)} rope_and_write is {'norm, ' if has_norm else ''}rope, write_kv"
            yield name, partial(_rope_and_write, backend, dtype, has_norm)


def _pool(backend: Backend, dtype: torch.dtype, kv_dtype: torch.dtype) -> KVPool:
    spec = KVSpec(num_kv_heads=_KV_HEADS, head_dim=_HEAD_DIM, dtype=kv_dtype)
    layout = backend.kv_layouts(spec)[0]
    if not layout.canonical:
        raise Skipped("the layout is not canonical: the kit cannot read its blocks")
    support = backend.attention.supports(spec, layout, dtype, AttentionParams(scale=0.125))
    if not support:
        raise Skipped(support.reason)
    nbytes = _BLOCKS * layout.block_bytes(spec, _LAYERS)
    device = backend.device.torch_device
    buffer = torch.full((nbytes,), _FILL, dtype=torch.uint8, device=device)
    return KVPool.carve(buffer, spec, layout, _LAYERS, _BLOCKS)


def _normal(backend: Backend, dtype: torch.dtype, *shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(backend.device.torch_device, dtype)


def _slots(pool: KVPool, count: int) -> torch.Tensor:
    """Slots in random order over all blocks but the null block; every third is padding."""
    size = pool.block_size
    order = torch.randperm((_BLOCKS - 1) * size, generator=torch.Generator().manual_seed(5))
    slots = order[:count] + size
    slots[::3] = -1
    return slots.to(pool.buffer.device, pool.layout.slot_dtype)


def _rows(part: torch.Tensor) -> torch.Tensor:
    """A part of the pool by slot, as bytes on the host: `[slots, ...]`."""
    # Cloned, for on a host device `cpu()` is the pool itself.
    rows = part.cpu().clone(memory_format=torch.contiguous_format).flatten(0, 1)
    return rows.view(torch.uint8).reshape(len(rows), -1)


def _write(backend: Backend, dtype: torch.dtype, kv_dtype: torch.dtype) -> None:
    pool = _pool(backend, dtype, kv_dtype)
    before = [_rows(part) for part in pool.parts]
    slots = _slots(pool, 37)
    # Keys and values as they come: views of one tensor, head by head beside each other.
    both = _normal(backend, dtype, len(slots), 2 * _KV_HEADS, _HEAD_DIM)
    key, value = both.split_with_sizes([_KV_HEADS, _KV_HEADS], dim=1)
    backend.attention.write_kv(pool, 1, key, value, slots)
    backend.device.synchronize()
    written = slots[slots >= 0].cpu().long()
    real = (slots >= 0).cpu()
    expected = [part.clone() for part in before]
    sides = [quantize_kv(side.cpu(), kv_dtype) for side in (key, value)]
    for place, (numbers, scales) in enumerate(sides):
        view = _LAYERS * place + 1
        expected[view][written] = _rows(indexable(numbers)[real][:, None])
        if scales is not None:
            expected[2 * _LAYERS + view][written] = _rows(scales[real][:, None])
    for place, part in enumerate(pool.parts):
        found, wanted = _rows(part), expected[place]
        # The null block may hold anything.
        wrong = (found != wanted).any(1).nonzero().flatten()
        wrong = wrong[wrong >= pool.block_size]
        stray = [slot for slot in wrong.tolist() if slot not in set(written.tolist())]
        what = f"part {place}: "
        expect(not stray, f"{what}slots {stray[:5]} were written and are no token's (-1: padding)")
        expect(not len(wrong), f"{what}slots {wrong.tolist()[:5]} hold other numbers")


def _round_trip(backend: Backend, dtype: torch.dtype, kv_dtype: torch.dtype) -> None:
    pool = _pool(backend, dtype, kv_dtype)
    size = pool.block_size
    new = _normal(backend, dtype, 2 * _BLOCKS * size, _KV_HEADS, _HEAD_DIM)
    key, value = new.chunk(2)
    slots = torch.arange(_BLOCKS * size, device=new.device).to(pool.layout.slot_dtype)
    for layer in range(_LAYERS):
        backend.attention.write_kv(pool, layer, key, value, slots)
    source = torch.tensor([4, 1], device=new.device)
    target = torch.tensor([2, 5], device=new.device)
    blocks = backend.attention.export_blocks(pool, 1, source).clone()
    expect(blocks.shape[:4] == (2, 2, size, _KV_HEADS), f"exported {tuple(blocks.shape)}")
    if not pool.spec.has_scales:
        for side, given in enumerate((key, value)):
            stored, _ = quantize_kv(given.view(_BLOCKS, size, _KV_HEADS, _HEAD_DIM), kv_dtype)
            same = torch.equal(blocks[:, side].view(torch.uint8), _bytes(stored)[source])
            expect(same, "what is exported is not what was written")
    model = [part.cpu().clone() for part in pool.parts]
    for part in (model[place] for place in range(1, len(model), _LAYERS)):
        part[target.cpu()] = part[source.cpu()]
    backend.attention.import_blocks(pool, 1, target, blocks)
    backend.device.synchronize()
    again = backend.attention.export_blocks(pool, 1, target)
    expect(torch.equal(_bytes(again), _bytes(blocks)), "import, then export, gives other bytes")
    for place, (found, wanted) in enumerate(zip(pool.parts, model, strict=True)):
        expect(torch.equal(_bytes(found.cpu()), _bytes(wanted)), f"import changed part {place}")


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def _segments(backend: Backend, dtype: torch.dtype, kv_dtype: torch.dtype) -> None:
    pool = _pool(backend, dtype, kv_dtype)
    generator = torch.Generator().manual_seed(1)
    pool.buffer.copy_(torch.randint(0, 120, pool.buffer.shape, generator=generator))
    host = pool.buffer.cpu().clone()
    taken = torch.zeros(len(host), dtype=torch.int32)
    nbytes = pool.layout.block_bytes(pool.spec, _LAYERS)
    for block in range(_BLOCKS):
        segments = pool.segments(block)
        expect(sum(length for _, length in segments) == nbytes, f"they are not {nbytes} bytes")
        for offset, length in segments:
            taken[offset : offset + length] += 1
    expect(bool((taken == 1).all()), "segments of blocks overlap, or leave bytes out")
    # Block 1's bytes in block 3's place are block 1.
    for (old, length), (new, _) in zip(pool.segments(1), pool.segments(3), strict=True):
        host[new : new + length] = host[old : old + length].clone()
    pool.buffer.copy_(host)
    for part in pool.parts:
        expect(torch.equal(part[1], part[3]), "moving a block's segments does not move the block")


def _rope_and_write(backend: Backend, dtype: torch.dtype, has_norm: bool) -> None:
    results = []
    # The contract's own composition, and what the backend makes of it.
    for method in (Attention.rope_and_write, type(backend.attention).rope_and_write):
        pool = _pool(backend, dtype, dtype)
        slots = _slots(pool, 37)
        heads = _HEADS + 2 * _KV_HEADS
        qkv = _normal(backend, dtype, len(slots), heads, _HEAD_DIM)
        query, key, value = qkv.split_with_sizes([_HEADS, _KV_HEADS, _KV_HEADS], dim=1)
        weights = [_normal(backend, dtype, _HEAD_DIM, seed=2 + i) for i in range(2)]
        norm = HeadNorm(weights[0], weights[1], 1e-6) if has_norm else None
        angle = _normal(backend, torch.float32, 90, _HEAD_DIM // 2, seed=4)
        table = torch.cat((angle.cos(), angle.sin()), dim=1)
        positions = torch.arange(len(slots), device=qkv.device) * 2
        args = (query, key, value, positions, table, slots, norm, backend.ops)
        with torch.inference_mode():
            rotated = method(backend.attention, pool, 1, *args)
        backend.device.synchronize()
        caches = [view[1:].float() for view in (pool.keys[1], pool.values[1])]
        untouched = all(bool((_bytes(view[0].cpu()) == _FILL).all()) for view in pool.keys[:1])
        expect(untouched, "it wrote into another layer")
        results.append((rotated, *caches))
    for found, wanted in zip(results[1], results[0], strict=True):
        close(found, wanted, dtype, factor=2.0)
