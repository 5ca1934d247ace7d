"""L1: streams, events and the allocator, against a model of blocks on the host."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from windlass.backend import AttentionParams, Backend, KVPool, KVSpec, MemoryPolicy, Profile
from windlass.errors import OutOfMemoryError
from windlass.testing.conformance.cases import Case, Skipped, expect
from windlass.testing.conformance.layouts import layout_at, layout_numbers

_LAYERS, _BLOCKS = 2, 9
_TAG = "conformance"
Pairs = list[tuple[int, int]]
CHAIN: Pairs = [(1, 2), (2, 3), (5, 1), (7, 8)]
"""Sources that are also destinations: what is copied must be the old content."""
SWAPS: Pairs = [(1, 6), (2, 7), (5, 1), (8, 3)]


def device_cases(backend: Backend) -> list[Case]:
    """The cases of L1 for one backend."""
    checks: dict[str, Callable[[Backend], None]] = {
        "memory is plausible": _memory,
        "a stream runs in order, another waits for its event": _streams,
        "events are reached and tell time": _events,
        "a reservation keeps its address": _stable_address,
        "memory reserved again is zero": _zero_fill,
        "host memory": _host,
        "budget is monotone": _budget,
        "measure reports the step": _measure,
        "what cannot fit is an OutOfMemoryError": _out_of_memory,
    }
    cases = [Case(name, partial(check, backend)) for name, check in checks.items()]
    cases += [
        Case(f"reservation is aligned to {align}", partial(_aligned, backend, align))
        for align in (64, 256, 4096)
    ]
    for dtype in (*backend.capabilities.dtypes, torch.int8, backend.capabilities.fp8_dtype):
        for number, suffix in layout_numbers(backend, dtype):
            what = str(dtype).removeprefix("torch.") + suffix
            cases += [
                Case(f"copy_blocks {what}", partial(_copy_blocks, backend, dtype, number)),
                Case(f"zero_blocks {what}", partial(_zero_blocks, backend, dtype, number)),
                Case(f"swap out and in {what}", partial(_swap, backend, dtype, number)),
            ]
    return cases


def _memory(backend: Backend) -> None:
    if backend.capabilities.memory_statistics == "none" and backend.device.memory().total < 0:
        raise Skipped("the device tells nothing of its memory")
    memory = backend.device.memory()
    expect(memory.total > 0, f"total is {memory.total}")
    expect(-1 <= memory.free <= memory.total, f"{memory.free} of {memory.total} bytes are free")


def _streams(backend: Backend) -> None:
    device = backend.device
    device.activate()
    first, second = device.stream(), device.stream()
    x = torch.ones(512, 512, device=device.torch_device)
    device.synchronize()
    for _ in range(3):
        with device.use(first):
            for _ in range(8):
                x = (x @ x) / 512
            y = x + 41
            done = device.event()
            done.record(first)
        with device.use(second):
            second.wait_event(done)
            z = y * 2
        second.synchronize()
        expect(bool((z.cpu() == 84).all()), "work after wait_event ran before what it waits for")
    device.synchronize()


def _events(backend: Backend) -> None:
    device = backend.device
    stream = device.current_stream()
    begin, end = device.event(timing=True), device.event(timing=True)
    begin.record(stream)
    torch.ones(256, 256, device=device.torch_device).sum()
    end.record(stream)
    end.synchronize()
    expect(begin.query() and end.query(), "an event is not reached after synchronize")
    expect(begin.elapsed_ms(end) >= 0, "time runs backwards between two events")


def _aligned(backend: Backend, align: int) -> None:
    for size in (1, 1000, 123_457):
        buffer = backend.allocator.reserve(size, align=align, tag=_TAG)
        try:
            expect(buffer.dtype == torch.uint8, f"dtype is {buffer.dtype}")
            expect(buffer.shape == (size,), f"shape is {tuple(buffer.shape)}, not ({size},)")
            expect(buffer.device.type == backend.device.torch_device.type, f"on {buffer.device}")
            expect(buffer.data_ptr() % align == 0, f"{buffer.data_ptr():#x} is not aligned")
            expect(not bool(buffer.any()), "it is not zero")
        finally:
            del buffer
            backend.allocator.release(_TAG)


def _stable_address(backend: Backend) -> None:
    allocator = backend.allocator
    buffer = allocator.reserve(1 << 16, tag=_TAG)
    address = buffer.data_ptr()
    buffer.fill_(7)
    others = [allocator.reserve(1 << 16, tag=f"{_TAG} {i}") for i in range(4)]
    for other in others:
        other.fill_(9)
    for i in range(4):
        allocator.release(f"{_TAG} {i}")
    backend.device.synchronize()
    intact = bool((buffer == 7).all())
    allocator.release(_TAG)
    expect(buffer.data_ptr() == address, "its address changed")
    expect(intact, "another reservation wrote into it")


def _zero_fill(backend: Backend) -> None:
    for _ in range(3):
        buffer = backend.allocator.reserve(1 << 20, tag=_TAG)
        clean = not bool(buffer.any())
        buffer.fill_(255)
        backend.device.synchronize()
        del buffer
        backend.allocator.release(_TAG)
        expect(clean, "it holds what was there before")


def _host(backend: Backend) -> None:
    for pinned in (False, True):
        buffer = backend.allocator.host(1000, pinned=pinned)
        expect(buffer.device.type == "cpu", f"it is on {buffer.device}")
        expect(buffer.dtype == torch.uint8 and buffer.shape == (1000,), "it is not uint8 [1000]")
        if pinned and backend.capabilities.pinned_host:
            expect(buffer.is_pinned(), "pinned_host is declared, and it is not page-locked")


def _budget(backend: Backend) -> None:
    total = backend.device.memory().total
    if total <= 0:
        raise Skipped("the device does not tell its total memory")

    def budget(weights: int = 0, peak: int = 0, share: float = 0.5, cap: int = 0) -> int:
        profile = Profile(weights=weights, peak_activation=peak)
        policy = MemoryPolicy(utilization=share, cap_bytes=cap)
        return backend.allocator.kv_budget(profile, policy)

    slack = total // 50  # others use the memory meanwhile
    expect(budget(weights=total // 4) <= budget() + slack, "more weights leave more memory")
    expect(budget(peak=total // 4) < budget(), "a higher peak leaves no less memory")
    expect(budget(share=0.2) <= budget(share=0.9) + slack, "a larger share gives less memory")
    expect(budget(cap=1 << 20) <= 1 << 20, "the cap is passed over")
    expect(budget(weights=2 * total) <= 0, "a model twice as large as the memory leaves some")


def _measure(backend: Backend) -> None:
    calls = []
    profile = backend.allocator.measure(
        lambda: calls.append(1), weights=12345, activation_estimate=1 << 20
    )
    expect(profile.weights == 12345, f"weights became {profile.weights}")
    expect(profile.peak_activation >= 0, f"peak is {profile.peak_activation}")
    if backend.capabilities.memory_statistics == "none":
        expect(profile.peak_activation == 1 << 20, "without statistics the estimate must be told")
        expect(not calls, "without statistics the step must not run")
    else:
        expect(bool(calls), "the step was not run")


def _out_of_memory(backend: Backend) -> None:
    try:
        backend.allocator.reserve(1 << 60, tag=_TAG)
    except OutOfMemoryError as error:
        expect(any(letter.isdigit() for letter in str(error)), f"it names no size: {error}")
    else:
        backend.allocator.release(_TAG)
        raise AssertionError("2^60 bytes were reserved")
    backend.allocator.reserve(1000, tag=_TAG)
    backend.allocator.release(_TAG)


def _pool(
    backend: Backend, dtype: torch.dtype, number: int, seed: int, buffer: torch.Tensor | None = None
) -> KVPool:
    """A pool of random bytes, in device memory or in the buffer given.

    Raises:
        Skipped: the layout is the backend's own, and not for such a cache.
    """
    spec = KVSpec(num_kv_heads=2, head_dim=64, dtype=dtype)
    layout = layout_at(backend, spec, number)
    if not layout.canonical:
        model = dtype if dtype in backend.capabilities.dtypes else backend.capabilities.dtypes[0]
        support = backend.attention.supports(spec, layout, model, AttentionParams(scale=0.125))
        if not support:
            raise Skipped(support.reason)
    nbytes = _BLOCKS * layout.block_bytes(spec, _LAYERS)
    if buffer is None:
        buffer = torch.empty(nbytes, dtype=torch.uint8, device=backend.device.torch_device)
    generator = torch.Generator().manual_seed(seed)
    buffer.copy_(torch.randint(0, 256, (nbytes,), generator=generator, dtype=torch.uint8))
    return KVPool.carve(buffer, spec, layout, _LAYERS, _BLOCKS)


def _blocks(pool: KVPool) -> list[torch.Tensor]:
    """A copy on the host of everything in the pool, as bytes `[B, ...]`."""
    # Cloned, for on a host device `cpu()` is the pool itself.
    copies = (part.cpu().clone(memory_format=torch.contiguous_format) for part in pool.parts)
    return [copy.view(torch.uint8) for copy in copies]


def _same(pool: KVPool, expected: list[torch.Tensor]) -> None:
    for found, model in zip(_blocks(pool), expected, strict=True):
        wrong = (found != model).flatten(1).any(1).nonzero().flatten().tolist()
        expect(not wrong, f"blocks {wrong} are not what the model says")


def _copy_blocks(backend: Backend, dtype: torch.dtype, number: int) -> None:
    pools = [_pool(backend, dtype, number, seed) for seed in (1, 2)]
    models = [_blocks(pool) for pool in pools]
    backend.allocator.copy_blocks(pools, torch.tensor(CHAIN))
    backend.device.synchronize()
    source, target = torch.tensor(CHAIN).unbind(1)
    for pool, model in zip(pools, models, strict=True):
        for part in model:
            part[target] = part[source]
        _same(pool, model)


def _zero_blocks(backend: Backend, dtype: torch.dtype, number: int) -> None:
    pools = [_pool(backend, dtype, number, seed) for seed in (1, 2)]
    models = [_blocks(pool) for pool in pools]
    ids = torch.tensor([7, 2, 3])
    backend.allocator.zero_blocks(pools, ids)
    backend.device.synchronize()
    for pool, model in zip(pools, models, strict=True):
        for part in model:
            part[ids] = 0
        _same(pool, model)


def _swap(backend: Backend, dtype: torch.dtype, number: int) -> None:
    pool = _pool(backend, dtype, number, 1)
    host = backend.allocator.host(pool.buffer.numel(), pinned=True)
    other = _pool(backend, dtype, number, 2, host)
    models = [_blocks(pool), _blocks(other)]
    for step, (source, target) in enumerate(((pool, other), (other, pool))):
        pairs = torch.tensor(SWAPS[step:])
        stream = backend.device.stream()
        backend.allocator.swap(source, target, pairs, stream).synchronize()
        old, new = pairs.unbind(1)
        for here, there in zip(models[step], models[1 - step], strict=True):
            there[new] = here[old]
        _same(target, models[1 - step])
        _same(source, models[step])
