"""Which of a backend's cache layouts a case runs on: each of them is proved."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from windlass.backend import Attention, Backend, KVLayout, KVPool, KVSpec
from windlass.testing.conformance.cases import Skipped

_SPEC_HEADS, _SPEC_HEAD_DIM = 2, 64


def layout_numbers(backend: Backend, dtype: torch.dtype) -> Iterator[tuple[int, str]]:
    """Every layout for a cache of `dtype`: its place, and a suffix for names of cases.

    The preferred one, at place 0, needs no name.
    """
    spec = KVSpec(num_kv_heads=_SPEC_HEADS, head_dim=_SPEC_HEAD_DIM, dtype=dtype)
    for number, layout in enumerate(backend.kv_layouts(spec)):
        yield number, f", layout {_describe(layout)}" if number else ""


def layout_at(backend: Backend, spec: KVSpec, number: int = 0, block_size: int = 0) -> KVLayout:
    """The backend's layout at this place, with blocks of another size when asked for.

    Raises:
        Skipped: for this cache there is no such layout, or it has no blocks of this size.
    """
    layouts = backend.kv_layouts(spec)
    if number >= len(layouts):
        raise Skipped(f"for such a cache there are {len(layouts)} layouts")
    layout = layouts[number]
    if not block_size or layout.block_size == block_size:
        return layout
    if not layout.canonical:
        raise Skipped(f"layout {_describe(layout)} has blocks of {layout.block_size}")
    if block_size % backend.capabilities.block_multiple:
        raise Skipped(f"blocks are multiples of {backend.capabilities.block_multiple}")
    return layout.with_block_size(block_size)


def stored_rows(attention: Attention, pool: KVPool, layer: int) -> torch.Tensor:
    """What a layer holds of each slot, as bytes on the host: `[2, B * N, H, bytes]`.

    Keys, then values; of each head its numbers, then its scale. Read where the layout says that
    they are, or, where only the backend knows, through `export_blocks`.
    """
    # The contract's own export reads the views of a canonical layout.
    export = Attention.export_blocks if pool.layout.canonical else type(attention).export_blocks
    ids = torch.arange(pool.num_blocks, device=pool.buffer.device)
    blocks = export(attention, pool, layer, ids).cpu().contiguous()
    rows = blocks.view(torch.uint8).transpose(0, 1).flatten(1, 2)
    return rows.clone(memory_format=torch.contiguous_format)


def _describe(layout: KVLayout) -> str:
    if not layout.canonical:
        return type(layout).__name__
    return f"{layout.order} {layout.kv} of {layout.block_size}"
