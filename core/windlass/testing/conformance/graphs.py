"""L5: captured steps, replayed, against the same steps run op by op."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from windlass.backend import Backend, Graph, GraphPool, GraphSupport
from windlass.errors import OutOfMemoryError, PluginError
from windlass.testing.conformance.cases import Absent, Case, Skipped, expect
from windlass.testing.conformance.compare import close, short
from windlass.testing.conformance.graph_step import TABLE_ROWS, VOCABULARY, DecodeStep, Output

_LENS = [5, 1, 30, 17, 40]
"""Tokens of the sequences: the first one, within a block and beyond, on both sides of a border."""

_PIECE = 1 << 24
"""Bytes of a tensor that no rounding of an allocator hides."""


def graph_cases(backend: Backend) -> Iterator[Case]:
    """The cases of L5 for one backend.

    Raises:
        Absent: it captures nothing.
    """
    if backend.capabilities.graph is GraphSupport.NONE:
        raise Absent("the backend declares no graphs")
    return _cases(backend)


def _cases(backend: Backend) -> Iterator[Case]:
    yield Case("a pool of graphs is there", partial(_pool_is_there, backend))
    dtypes = backend.capabilities.dtypes
    main = torch.float32 if torch.float32 in dtypes else dtypes[0]
    for name, check in _STEPS.items():
        for dtype in dtypes if check is _changed_inputs else (main,):
            yield Case(f"{name} ({short(dtype)})", partial(_in_inference, check, backend, dtype))
    for name, bare in _GRAPHS.items():
        yield Case(name, partial(bare, backend))


def _pool(backend: Backend) -> GraphPool:
    pool = backend.device.graph_pool()
    declared = backend.capabilities.graph.name
    expect(pool is not None, f"graphs are declared ({declared}), and graph_pool() is None")
    assert pool is not None
    return pool


def _pool_is_there(backend: Backend) -> None:
    told = _pool(backend).memory_bytes()
    expect(told >= 0, f"memory_bytes() is {told}")


def _in_inference(
    check: Callable[[Backend, torch.dtype], None], backend: Backend, dtype: torch.dtype
) -> None:
    """As the core's runner does, with gradients off and their records too."""
    backend.device.activate()
    with torch.inference_mode():
        check(backend, dtype)


def _rows(backend: Backend) -> int:
    """As many rows as the backend captures together, at most those of the cases."""
    return 1 if backend.capabilities.graph is GraphSupport.DECODE_1 else len(_LENS)


class _Captured:
    """A step, a graph of it, and its twin that runs op by op."""

    def __init__(self, backend: Backend, dtype: torch.dtype) -> None:
        self.graphed, self.eager = DecodeStep(backend, dtype), DecodeStep(backend, dtype)
        self.size = _rows(backend)
        self._device = backend.device
        self._graphs = _pool(backend)

    def capture(self, size: int) -> tuple[Graph, Output]:
        """A graph of `size` rows, captured over padding, and where its results will be."""
        outputs: list[Output] = []

        def step() -> None:
            outputs[:] = [self.graphed.run(size)]

        rows = self.graphed.rows.clone()
        self.graphed.choose([])
        graph = self._graphs.capture(step, key=("conformance", size))
        self.graphed.rows.copy_(rows)
        self._device.synchronize()
        return graph, outputs[0]

    def both(self, change: Callable[[DecodeStep], None]) -> None:
        """Change the graph's inputs and its twin's."""
        change(self.graphed)
        change(self.eager)

    def replay(self, size: int, graph: Graph, output: Output, real: int = TABLE_ROWS) -> None:
        """Replay, step the twin op by op, and fail where the first `real` rows part."""
        wanted = self.eager.run(size)
        graph.replay()
        self._device.synchronize()
        # The same kernels in the same order: every number is the same.
        _same("logits", output.logits[:real], wanted.logits[:real])
        _same("chosen tokens", output.tokens[:real], wanted.tokens[:real])
        self.compare_states()

    def compare_states(self) -> None:
        """Fail where the graph's table or cache is not its twin's."""
        one, other = self.graphed.state(), self.eager.state()
        for name in one:
            _same(name, one[name], other[name])


def _same(what: str, found: torch.Tensor, wanted: torch.Tensor) -> None:
    one, other = found.cpu(), wanted.cpu()
    expect(not bool(other.isnan().any()), f"{what}: NaN op by op")
    wrong = one != other
    text = f"{what}: {int(wrong.sum())} of {wrong.numel()} differ between replay and op by op"
    expect(not bool(wrong.any()), text)


# Steps


def _changed_inputs(backend: Backend, dtype: torch.dtype) -> None:
    """Whatever the host writes where it lies is seen: nothing of the capture's values remains."""
    pair = _Captured(backend, dtype)
    size = pair.size
    graph, output = pair.capture(size)
    pair.both(lambda step: step.start(_LENS[:size]))
    pair.replay(size, graph, output)
    changes: list[Callable[[DecodeStep], None]] = [
        lambda step: step.enter("last_token", torch.tensor([3, 99, 17, 60, 8][:size])),
        lambda step: step.enter("temperature", torch.tensor([0.0, 0.7, 1.3, 0.0, 2.0][:size])),
        lambda step: step.enter("seed", torch.tensor([7, 1 << 40, 9, 2, 5][:size])),
        lambda step: step.enter("top_k", torch.tensor([0, 5, 0, 1, 9][:size])),
        lambda step: step.enter("top_p", torch.tensor([1.0, 0.5, 0.9, 1.0, 0.8][:size])),
        lambda step: step.choose(list(reversed(range(size)))),
        lambda step: step.start([33, 40, 2, 7, 1][:size], seed=1),
    ]
    for change in changes:
        pair.both(change)
        pair.replay(size, graph, output)


def _in_turn(backend: Backend, dtype: torch.dtype) -> None:
    """A replay takes up the tokens of the one before it, though the host never looked."""
    pair = _Captured(backend, dtype)
    size = pair.size
    graph, output = pair.capture(size)
    pair.both(lambda step: step.start(_LENS[:size]))
    for _ in range(3):
        graph.replay()
        wanted = pair.eager.run(size)
    backend.device.synchronize()
    _same("chosen tokens", output.tokens, wanted.tokens)
    pair.compare_states()


def _capture_changes_nothing(backend: Backend, dtype: torch.dtype) -> None:
    pair = _Captured(backend, dtype)
    pair.both(lambda step: step.start(_LENS[: pair.size]))
    pair.capture(pair.size)
    pair.compare_states()


def _padding(backend: Backend, dtype: torch.dtype) -> None:
    pair = _Captured(backend, dtype)
    count = max(1, pair.size // 2)
    graph, output = pair.capture(pair.size)
    pair.both(lambda step: step.start(_LENS[:count]))
    pair.replay(pair.size, graph, output, real=count)
    pair.both(lambda step: step.choose([]))
    before = pair.graphed.state()
    graph.replay()
    backend.device.synchronize()
    for name, now in pair.graphed.state().items():
        _same(f"after a step of padding alone, {name}", now, before[name])


def _addresses(backend: Backend, dtype: torch.dtype) -> None:
    pair = _Captured(backend, dtype)
    size = pair.size
    graph, output = pair.capture(size)
    pair.both(lambda step: step.start(_LENS[:size]))
    step = pair.graphed
    tensors = (output.logits, output.tokens, step.last_token, step.pool.buffer)
    addresses = [tensor.data_ptr() for tensor in tensors]
    # Who takes what others have given back must not get what a graph uses.
    others = []
    for round_ in range(3):
        graph.replay()
        wanted = pair.eager.run(size)
        shapes = (output.logits.shape, (size,), (size, 64), (1 << 16,))
        others += [torch.full(shape, -7.0, device=step.device) for shape in shapes]
        backend.device.synchronize()
        _same(f"logits of replay {round_}", output.logits, wanted.logits)
    clean = all(bool((other == -7.0).all()) for other in others)
    expect(clean, "a replay wrote into memory that was handed out after its capture")
    expect([tensor.data_ptr() for tensor in tensors] == addresses, "an address has changed")


def _sizes(backend: Backend, dtype: torch.dtype) -> None:
    """As the core captures them: the largest first, replayed in any order."""
    if _rows(backend) == 1:
        raise Skipped("the backend captures steps of one row only")
    pair = _Captured(backend, dtype)
    captured = {size: pair.capture(size) for size in (TABLE_ROWS, 4, 2, 1)}
    lens = [*_LENS, 3, 9, 22, 1]
    pair.both(lambda step: step.start(lens))
    for size in (1, TABLE_ROWS, 2, 4, 1, 2, TABLE_ROWS):
        rows = list(range(TABLE_ROWS - size, TABLE_ROWS))
        pair.both(lambda step, rows=rows: step.choose(rows))  # type: ignore[misc]
        pair.replay(size, *captured[size])


def _plan_again(backend: Backend, dtype: torch.dtype) -> None:
    """Captured over sequences of one token, replayed over long ones: what is planned on the device
    is planned anew. Told to the host and planned there, the same step gives the same."""
    pair = _Captured(backend, dtype)
    size = pair.size
    graph, output = pair.capture(size)
    for seed, last in enumerate((1, pair.graphed.max_len - 1, pair.graphed.max_len // 2, 2)):
        lens = [last, *_LENS[1:size]]
        pair.both(lambda step, lens=lens, seed=seed: step.start(lens, seed=seed))  # type: ignore[misc]
        graph.replay()
        wanted = pair.eager.run(size, capture=False, lens=[length + 1 for length in lens])
        backend.device.synchronize()
        expect(not bool(wanted.logits.isnan().any()), "logits: NaN op by op")
        close(output.logits, wanted.logits, dtype, factor=8.0)  # kernels may be others


def _runs_no_python(backend: Backend, dtype: torch.dtype) -> None:
    """What the host computed stays what it was: a replay that did otherwise would be no graph."""
    calls = []
    x = torch.zeros(64, dtype=dtype, device=backend.device.torch_device)
    result = torch.zeros_like(x)

    def step() -> None:
        calls.append(1)
        result.copy_(x + len(calls))

    graph = _pool(backend).capture(step, key="conformance")
    called = len(calls)
    x.fill_(10)
    for _ in range(2):
        graph.replay()
    backend.device.synchronize()
    expect(len(calls) == called, "a replay called the function again")
    _same("the result", result, torch.full_like(result, 10 + called))


_STEPS: dict[str, Callable[[Backend, torch.dtype], None]] = {
    "replays see changed inputs": _changed_inputs,
    "replays in turn": _in_turn,
    "capturing changes nothing": _capture_changes_nothing,
    "padding rows write nothing": _padding,
    "addresses stay": _addresses,
    "several sizes in one pool, in any order": _sizes,
    "the plan is made again in the graph": _plan_again,
    "a replay runs no Python": _runs_no_python,
}


# Graphs alone


def _empty(backend: Backend) -> None:
    pool = _pool(backend)
    try:
        graph = pool.capture(lambda: None, key="empty")
    except PluginError:
        return
    if graph.nodes is None:
        raise Skipped("the device cannot tell what a graph holds")
    raise AssertionError(f"an empty capture is no error; it has {graph.nodes} nodes")


def _shortage(backend: Backend) -> None:
    pool, device = _pool(backend), backend.device
    total = device.memory().total
    nbytes = 2 * total if total > 0 else 1 << 50
    kept: list[torch.Tensor] = []

    def step() -> None:
        kept[:] = [torch.zeros(nbytes, dtype=torch.uint8, device=device.torch_device)]

    for warmup in (2, 0):
        try:
            pool.capture(step, key="too large", warmup=warmup)
        except OutOfMemoryError:
            continue
        raise AssertionError(f"{nbytes} bytes were captured on a device of {total}")
    _works(backend, pool)


def _works(backend: Backend, pool: GraphPool) -> None:
    """After a capture that failed, the next one is as good as any."""
    x = torch.ones(VOCABULARY, device=backend.device.torch_device)
    graph = pool.capture(lambda: x.add_(1), key="after")  # type: ignore[arg-type]
    before = x.cpu().clone()
    graph.replay()
    backend.device.synchronize()
    _same("the capture after a failed one", x, before + 1)


def _gives_back(backend: Backend) -> None:
    device = backend.device
    if device.memory().allocated < 0:
        raise Skipped("the device does not tell what is allocated")
    pool = _pool(backend)
    x = torch.ones(_PIECE, device=device.torch_device)
    kept: list[torch.Tensor] = []

    def step() -> None:
        kept[:] = [x + 1]

    device.synchronize()
    device.empty_cache()
    before = device.memory()
    graph = pool.capture(step, key="large", warmup=0)
    held = device.memory().reserved - before.reserved
    expect(held >= _PIECE, f"a graph that keeps {4 * _PIECE} bytes took {held}")
    told = pool.memory_bytes()
    expect(told >= _PIECE, f"memory_bytes() tells {told} bytes of them")
    graph.close()
    kept.clear()
    del graph
    device.synchronize()
    device.empty_cache()
    left = device.memory().reserved - before.reserved
    expect(left < _PIECE, f"{left} bytes are still held after the graph was closed")


_GRAPHS: dict[str, Callable[[Backend], None]] = {
    "an empty capture is an error": _empty,
    "a capture without memory is an OutOfMemoryError": _shortage,
    "closing a graph gives its memory back": _gives_back,
}
