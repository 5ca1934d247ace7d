"""L3: paged attention against the float32 oracle, over permuted blocks and a cache full of NaN."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch

from windlass.backend import AttentionParams, Backend, KVLayout, KVSpec
from windlass.testing.conformance.cases import Case, Skipped, expect
from windlass.testing.conformance.compare import close, short
from windlass.testing.conformance.kv_blocks import kv_cases
from windlass.testing.conformance.layouts import layout_at, layout_numbers
from windlass.testing.paged_step import LAYER, PagedStep, build_step

STEPS = {
    "decode": ([1, 1, 1, 1], [1, 33, 130, 64]),
    "prefill": ([6, 41, 3], [6, 41, 100]),
    "mixed": ([1, 1, 6, 3, 37], [1, 97, 6, 130, 60]),
}
"""(query lengths, sequence lengths): first tokens, odd lengths, full blocks, chunks over a past."""
HEADS = {"MHA": (4, 4), "GQA": (8, 2), "MQA": (4, 1), "odd groups": (6, 2), "group of 7": (7, 1)}
VARIANTS: dict[str, dict[str, float]] = {
    "plain": {},
    "window": {"window": 23},
    "window of 1": {"window": 1},
    "softcap": {"softcap": 1.5},
    "sinks": {"sinks": 2.0},
    "all": {"window": 40, "softcap": 2.0, "sinks": 2.0},
}
HEAD_DIM = 64
SENTINEL = 7.0


@dataclass(frozen=True)
class Shape:
    """What one case of attention asks for."""

    step: str
    heads: str
    variant: str
    dtype: torch.dtype
    kv_dtype: torch.dtype
    head_dim: int = HEAD_DIM
    block_size: int = 0
    """0: that of the layout."""
    layout: int = 0
    """Its place among the backend's layouts."""
    suffix: str = ""

    @property
    def name(self) -> str:
        """For people, and to tell cases apart."""
        cache = "" if self.kv_dtype is self.dtype else f" over {short(self.kv_dtype)}"
        more = "" if self.head_dim == HEAD_DIM else f", head size {self.head_dim}"
        more += f", blocks of {self.block_size}" if self.block_size else ""
        what = f"{self.step}, {self.heads}, {self.variant}"
        return f"{short(self.dtype)}{cache} {what}{more}{self.suffix}"


def attention_cases(backend: Backend) -> Iterator[Case]:
    """The cases of L3 for one backend."""
    provider = type(backend.attention).__name__
    for name, check in kv_cases(backend):
        yield Case(name, check, provider)
    for shape in _shapes(backend):
        yield Case(shape.name, partial(_check, backend, shape), provider)


def _shapes(backend: Backend) -> Iterator[Shape]:
    """Everything over a cache of the model's dtype; over a quantised one what may interact."""
    sizes = sorted({16, 64, backend.capabilities.preferred_block_size})
    # Sizes are tried with as much as the backend has, so that none goes untried for want of sinks.
    richest = "all" if VARIANTS["all"].keys() <= backend.capabilities.attention else "plain"
    for dtype in backend.capabilities.dtypes:
        for kv_dtype in (dtype, torch.int8, backend.capabilities.fp8_dtype):
            whole = kv_dtype is dtype
            yield from _on_other_layouts(backend, richest, dtype, kv_dtype)
            for step in STEPS:
                for heads in HEADS if whole else ("GQA", "group of 7"):
                    for variant in VARIANTS if whole else ("plain", "all"):
                        yield Shape(step, heads, variant, dtype, kv_dtype)
            for size in sizes:
                yield Shape("mixed", "GQA", richest, dtype, kv_dtype, block_size=size)
            for head_dim in (32, 80, 128, 256):
                yield Shape("mixed", "GQA", richest, dtype, kv_dtype, head_dim=head_dim)


def _on_other_layouts(
    backend: Backend, variant: str, dtype: torch.dtype, kv_dtype: torch.dtype
) -> Iterator[Shape]:
    """What depends on where numbers lie, over every layout but the preferred one."""
    for number, suffix in layout_numbers(backend, kv_dtype):
        if number:
            for step in STEPS:
                for heads in ("GQA", "group of 7"):
                    one = Shape(step, heads, variant, dtype, kv_dtype)
                    yield replace(one, layout=number, suffix=suffix)


def params_for(backend: Backend, shape: Shape) -> AttentionParams:
    """The layer's parameters; sinks are spread around the size of a score."""
    wanted = VARIANTS[shape.variant]
    params = AttentionParams(
        scale=shape.head_dim**-0.5,
        window=int(wanted.get("window", 0)),
        softcap=float(wanted.get("softcap", 0.0)),
    )
    if "sinks" not in wanted:
        return params
    reach, num_heads = float(wanted["sinks"]), HEADS[shape.heads][0]
    sinks = torch.linspace(-reach, reach, num_heads, device=backend.device.torch_device)
    return replace(params, sinks=sinks)


def _refuse(backend: Backend, shape: Shape, layout: KVLayout, params: AttentionParams) -> None:
    """Raise `Skipped` with the backend's own reason when it does not declare this shape."""
    num_heads, num_kv_heads = HEADS[shape.heads]
    features = set(VARIANTS[shape.variant])
    if num_heads != num_kv_heads:
        features.add("gqa")
    missing = backend.capabilities.missing_for(
        dtype=shape.dtype, head_dim=shape.head_dim, features=frozenset(features)
    )
    if missing:
        raise Skipped("not declared: " + "; ".join(missing))
    spec = KVSpec(num_kv_heads=num_kv_heads, head_dim=shape.head_dim, dtype=shape.kv_dtype)
    support = backend.attention.supports(spec, layout, shape.dtype, params)
    if not support:
        raise Skipped(support.reason)


def _check(backend: Backend, shape: Shape) -> None:
    num_heads, num_kv_heads = HEADS[shape.heads]
    spec = KVSpec(num_kv_heads=num_kv_heads, head_dim=shape.head_dim, dtype=shape.kv_dtype)
    layout = layout_at(backend, spec, shape.layout, shape.block_size)
    params = params_for(backend, shape)
    _refuse(backend, shape, layout, params)
    query_lens, seq_lens = STEPS[shape.step]
    step = build_step(
        backend,
        query_lens=query_lens,
        seq_lens=seq_lens,
        layout=layout,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=shape.head_dim,
        dtype=shape.dtype,
        kv_dtype=shape.kv_dtype,
    )
    _run(backend, step, params, shape.dtype)


def _run(backend: Backend, step: PagedStep, params: AttentionParams, dtype: torch.dtype) -> None:
    """Output, lse, and everything around them; with and without the lse, which may differ in
    the kernel that is chosen."""
    expected, expected_lse = step.expected(params)
    cache, query = step.pool.buffer.clone(), step.query.clone()
    tokens, heads, head_dim = step.query.shape
    with_lse = "lse" in backend.capabilities.attention
    for lse in (None, *((torch.full_like(expected_lse, torch.nan),) if with_lse else ())):
        wide = step.query.new_full((tokens + 2, heads, head_dim), SENTINEL)
        out = wide[1:-1]
        out.fill_(torch.nan)
        plan = backend.attention.plan(step.batch, step.pool)
        backend.attention.plan_in_graph(plan)
        with torch.inference_mode():
            backend.attention.run(step.pool, LAYER, step.query, plan, params, out, lse)
        backend.device.synchronize()
        close(out, expected, dtype)
        if lse is not None:
            # Scores of a 16-bit model may be rounded to its dtype before they are summed.
            close(lse, expected_lse, dtype, factor=5.0 if dtype is torch.float32 else 1.0)
        around = torch.stack((wide[0], wide[-1]))
        expect(bool((around == SENTINEL).all()), "it wrote beside its output")
    expect(torch.equal(step.query, query), "it wrote into the query")
    expect(torch.equal(step.pool.buffer, cache), "it wrote into the cache")
