"""L8: how fast a backend is here, as shares of what its memory gives; nothing fails for being slow.

Decoding reads every key, value and weight once and computes little, so the floor of its time is
the bytes over the bandwidth. A plain copy, measured in turn with the work, says what that is.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch

from windlass.backend import Attention, AttentionParams, Backend
from windlass.testing.conformance.cases import Case, Skipped, expect
from windlass.testing.conformance.compare import short
from windlass.testing.paged_step import LAYER, PagedStep, build_step

_COPIED = 64 << 20
"""Bytes of the copy. This, the weight and the keys and values are more than caches hold."""
_REPEATS = 7
_SECONDS_A_REPEAT = 0.02
_MOST_RUNS = 200
_REQUESTS, _LENGTH = 16, 2048
_HEADS, _KV_HEADS, _HEAD_DIM = 32, 8, 128
_OUTPUTS, _INPUTS = 16384, 4096


def speed_cases(backend: Backend) -> Iterator[Case]:
    """The cases of L8 for one backend.

    Each returns "bytes per second" of the work and of the copy, the middle of several turns, and
    "share of copy" with its lowest and highest.
    """
    dtype = backend.capabilities.dtypes[0]
    attention = f"decode attention {_REQUESTS}x{_LENGTH} {short(dtype)}"
    yield Case(attention, partial(_decode, backend, dtype), type(backend.attention).__name__)
    for rows in (1, 16):
        name = f"linear {rows}x{_OUTPUTS}x{_INPUTS} {short(dtype)}"
        yield Case(name, partial(_linear, backend, dtype, rows))


def _decode(backend: Backend, dtype: torch.dtype) -> Mapping[str, float]:
    """Decode attention over long contexts: each key and value is read once."""
    params = AttentionParams(scale=_HEAD_DIM**-0.5)
    step = build_step(
        backend,
        query_lens=[1] * _REQUESTS,
        seq_lens=[_LENGTH] * _REQUESTS,
        num_heads=_HEADS,
        num_kv_heads=_KV_HEADS,
        head_dim=_HEAD_DIM,
        dtype=dtype,
    )
    pool = step.pool
    support = backend.attention.supports(pool.spec, pool.layout, dtype, params)
    if not support:
        raise Skipped(support.reason)
    out = torch.empty_like(step.query)
    nbytes = 2 * _REQUESTS * _LENGTH * pool.spec.num_kv_heads * pool.spec.head_bytes
    measured = _beside_copy(backend, nbytes, _step(backend.attention, step, params, out))
    expect(bool(out.isfinite().all()), "the output is not finite")
    return measured


def _step(
    attention: Attention, step: PagedStep, params: AttentionParams, out: torch.Tensor
) -> Callable[[], None]:
    """A layer of a step that was planned before, as all layers but the first are."""
    plan = attention.plan(step.batch, step.pool)
    attention.plan_in_graph(plan)
    return lambda: attention.run(step.pool, LAYER, step.query, plan, params, out)


def _linear(backend: Backend, dtype: torch.dtype, rows: int) -> Mapping[str, float]:
    """A linear layer over few rows: the weight is read once."""
    device = backend.device.torch_device
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(_OUTPUTS, _INPUTS, generator=generator).to(device, dtype)
    x = torch.randn(rows, _INPUTS, generator=generator).to(device, dtype)
    packed = backend.ops.pack_weight(weight)
    return _beside_copy(backend, weight.nbytes, lambda: packed.apply(x))


def _beside_copy(backend: Backend, nbytes: int, work: Callable[[], object]) -> Mapping[str, float]:
    """Time `work`, which reads `nbytes`, in turn with a copy of device memory."""
    source = torch.ones(_COPIED, dtype=torch.uint8, device=backend.device.torch_device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    copy_runs, work_runs = _runs(backend, copy), _runs(backend, work)
    rates, shares, copies = [], [], []
    for _ in range(_REPEATS):
        copied = 2 * _COPIED / _seconds(backend, copy, copy_runs)
        rate = nbytes / _seconds(backend, work, work_runs)
        copies.append(copied)
        rates.append(rate)
        shares.append(rate / copied)
    return {
        "bytes per second": statistics.median(rates),
        "copy bytes per second": statistics.median(copies),
        "share of copy": statistics.median(shares),
        "lowest share": min(shares),
        "highest share": max(shares),
    }


def _runs(backend: Backend, work: Callable[[], object]) -> int:
    """How often `work` is to run in a row; its first run may compile."""
    work()
    once = _seconds(backend, work, 1)
    return min(max(int(_SECONDS_A_REPEAT / once), 1), _MOST_RUNS)


def _seconds(backend: Backend, work: Callable[[], object], runs: int) -> float:
    """Seconds on the device for one run of `work`, of `runs` in a row."""
    device = backend.device
    device.synchronize()
    begin, end = device.event(timing=True), device.event(timing=True)
    begin.record()
    for _ in range(runs):
        work()
    end.record()
    device.synchronize()
    return max(begin.elapsed_ms(end), 1e-6) / 1e3 / runs
