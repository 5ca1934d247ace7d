"""L3: what is written to the cache, what leaves it and comes back, and where its bytes lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from windlass.backend import Attention, AttentionParams, Backend, HeadNorm, KVPool, KVSpec
from windlass.kernels.kv_quantization import quantize_kv
from windlass.testing.conformance.cases import Skipped, expect
from windlass.testing.conformance.compare import close, short
from windlass.testing.conformance.layouts import layout_at, layout_numbers, stored_rows

_LAYERS, _BLOCKS = 2, 6
_KV_HEADS, _HEADS, _HEAD_DIM = 2, 4, 64
_FILL = 3
"""The byte that unwritten memory holds: a small number in every format."""


def kv_cases(backend: Backend) -> Iterator[tuple[str, Callable[[], None]]]:
    """(name, check) of every case of a cache's contents."""
    for dtype in backend.capabilities.dtypes:
        for kv_dtype in (dtype, torch.int8, backend.capabilities.fp8_dtype):
            cache = "" if kv_dtype is dtype else f" over {short(kv_dtype)}"
            for number, suffix in layout_numbers(backend, kv_dtype):
                for name, check in (
                    ("write_kv writes its slots and no other", _write),
                    ("export and import", _round_trip),
                    ("segments are the block's bytes", _segments),
                ):
                    case = partial(check, backend, dtype, kv_dtype, number)
                    yield f"{short(dtype)}{cache} {name}{suffix}", case
        for number, suffix in layout_numbers(backend, dtype):
            for has_norm in (False, True):
                norm = "norm, " if has_norm else ""
                name = f"{short(dtype)} rope_and_write is {norm}rope, write_kv{suffix}"
                yield name, partial(_rope_and_write, backend, dtype, number, has_norm)


def _pool(backend: Backend, dtype: torch.dtype, kv_dtype: torch.dtype, number: int) -> KVPool:
    spec = KVSpec(num_kv_heads=_KV_HEADS, head_dim=_HEAD_DIM, dtype=kv_dtype)
    layout = layout_at(backend, spec, number)
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


def _write(backend: Backend, dtype: torch.dtype, kv_dtype: torch.dtype, number: int) -> None:
    pool = _pool(backend, dtype, kv_dtype, number)
    attention = backend.attention
    before = [stored_rows(attention, pool, layer) for layer in range(_LAYERS)]
    slots = _slots(pool, 37)
    # Keys and values as they come: views of one tensor, head by head beside each other.
    both = _normal(backend, dtype, len(slots), 2 * _KV_HEADS, _HEAD_DIM)
    key, value = both.split_with_sizes([_KV_HEADS, _KV_HEADS], dim=1)
    attention.write_kv(pool, 1, key, value, slots)
    backend.device.synchronize()
    written = slots[slots >= 0].cpu().long()
    before[1][:, written] = torch.stack([_stored(x, kv_dtype) for x in (key, value)])[
        :, (slots >= 0).cpu()
    ]
    for layer, wanted in enumerate(before):
        wrong = (stored_rows(attention, pool, layer) != wanted).flatten(2).any(2)
        # The null block may hold anything.
        wrong[:, : pool.block_size] = False
        for side, places in zip(("keys", "values"), wrong, strict=True):
            what = f"{side} of layer {layer}: "
            found = places.nonzero().flatten().tolist()
            stray = [slot for slot in found if layer != 1 or slot not in set(written.tolist())]
            expect(not stray, f"{what}slots {stray[:5]} were written and are no token's (-1: none)")
            expect(not found, f"{what}slots {found[:5]} hold other numbers")


def _stored(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Bytes of keys or values `[T, H, D]` as a cache holds them: `[T, H, bytes]`."""
    numbers, scales = quantize_kv(x.cpu(), dtype)
    stored = _bytes(numbers)
    return stored if scales is None else torch.cat((stored, _bytes(scales[..., None])), dim=-1)


def _round_trip(backend: Backend, dtype: torch.dtype, kv_dtype: torch.dtype, number: int) -> None:
    pool = _pool(backend, dtype, kv_dtype, number)
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
    for side, given in enumerate((key, value)):
        stored = _stored(given.view(_BLOCKS, size, _KV_HEADS, _HEAD_DIM), kv_dtype)
        same = torch.equal(_bytes(blocks[:, side]).cpu(), stored[source.cpu()])
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


def _segments(backend: Backend, dtype: torch.dtype, kv_dtype: torch.dtype, number: int) -> None:
    pool = _pool(backend, dtype, kv_dtype, number)
    if not pool.layout.canonical:
        raise Skipped("segments are of canonical layouts; others leave by export_blocks")
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


def _rope_and_write(backend: Backend, dtype: torch.dtype, number: int, has_norm: bool) -> None:
    results = []
    # The contract's own composition, and what the backend makes of it.
    for method in (Attention.rope_and_write, type(backend.attention).rope_and_write):
        pool = _pool(backend, dtype, dtype, number)
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
