"""The engine on the fake accelerator: right in any order of streams, and its bugs are seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from windlass.backend import AttentionBatch, BackendConfig, TorchBackend
from windlass.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from windlass.engine.block_manager import BlockManager
from windlass.engine.core import EngineCore
from windlass.errors import WindlassError
from windlass.executor import decode_graphs, model_runner, step_upload
from windlass.executor.decode_graphs import DecodeGraphs
from windlass.executor.model_runner import TorchModelRunner
from windlass.executor.request_table import RequestTable
from windlass.models.decoder import Decoder
from windlass.plugin import BackendSpec
from windlass.request import Request, SamplingParams
from windlass.testing.fake.backend import FakeBackend
from windlass.testing.fake.machine import Place
from windlass.testing.fake.slot_records import KVReadError, KVWriteError
from windlass.testing.parity import run_requests
from windlass.testing.recorded_graph import HostReadError
from windlass.testing.tiny_models import write_tiny_model

BLOCK_SIZE = 4
ABORTED = {"r2": 5}
Tokens = dict[str, list[int]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    write_tiny_model(
        "llama3",
        path,
        vocab_size=128,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return path


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def requests() -> list[Request]:
    """Prompts of which some begin alike; greedy and random ones, one with log-probabilities."""
    generator = torch.Generator().manual_seed(3)
    common = torch.randint(128, (9,), generator=generator).tolist()
    found = []
    for i, length in enumerate((1, 14, 5, 3, 22, 7)):
        own = torch.randint(128, (length,), generator=generator).tolist()
        sampling = SamplingParams(
            temperature=0.0 if i % 3 else 0.8,
            seed=i,
            top_p=0.9,
            max_tokens=6,
            ignore_eos=True,
            logprobs=1 if i == 4 else None,
        )
        prompt = [*(common if i % 2 else []), *own]
        found.append(Request(request_id=f"r{i}", prompt_token_ids=prompt, sampling=sampling))
    return found


@contextmanager
def engine(
    folder: Path, backend: TorchBackend, *, num_blocks: int, enforce_eager: bool = False
) -> Iterator[EngineCore]:
    config = EngineConfig(
        model=ModelConfig(model=str(folder), dtype="float32", max_model_len=40),
        cache=CacheConfig(block_size=BLOCK_SIZE, num_blocks=num_blocks),
        scheduler=SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=11),
        backend=BackendConfig(enforce_eager=enforce_eager),
    )
    runner = TorchModelRunner(config, backend)
    core = EngineCore(config, runner.load(), runner)
    if isinstance(backend, FakeBackend):
        backend.records.watch(runner._pool, core.scheduler.blocks)
    try:
        yield core
    finally:
        runner.close()


@pytest.fixture(scope="module")
def expected(folder: Path) -> Tokens:
    """What the host says, with room for everybody."""
    spec = BackendSpec(name="reference", target="", device_type="cpu", priority=1)
    with engine(folder, TorchBackend(spec, BackendConfig()), num_blocks=200) as core:
        said = run_requests(core, requests())
    return {name: generation.token_ids for name, generation in said.items()}


def run(
    folder: Path,
    backend: FakeBackend,
    *,
    num_blocks: int = 12,
    enforce_eager: bool = False,
    prepare: Callable[[EngineCore], object] = lambda core: None,
) -> tuple[Tokens, int]:
    """Tokens of all requests, and how often one was preempted."""
    with engine(folder, backend, num_blocks=num_blocks, enforce_eager=enforce_eager) as core:
        prepare(core)
        said = run_requests(core, requests(), ABORTED)
        assert said["r3"].num_cached_tokens or num_blocks < 12
        return {
            name: generation.token_ids for name, generation in said.items()
        }, core.stats().num_preemptions


def same(said: Tokens, expected: Tokens) -> bool:
    """Whether everybody but the aborted said the same."""
    return all(said[name] == expected[name] for name in expected if name not in ABORTED)


@pytest.mark.parametrize(
    ("seed", "haste", "eager"),
    [(0, 0.0, False), (1, 0.5, False), (2, 0.8, True)],
)
def test_the_engine_says_what_it_says_on_the_host(
    folder: Path, expected: Tokens, seed: int, haste: float, eager: bool
) -> None:
    backend = FakeBackend()
    backend.machine.configure(seed=seed, haste=haste)
    said, preemptions = run(folder, backend, enforce_eager=eager)
    assert backend.machine.errors == []
    assert same(said, expected)
    assert preemptions > 0


@pytest.mark.parametrize("place", ["launch", "device", "memory"])
def test_a_step_that_fails_costs_nobody_a_token(
    folder: Path, expected: Tokens, place: Place
) -> None:
    backend = FakeBackend()
    said, _ = run(folder, backend, prepare=lambda core: backend.machine.fail(after=9, at=place))
    assert same(said, expected)
    assert len(backend.machine.errors) == (place == "device")


def test_a_step_never_reads_on_the_host(folder: Path, expected: Tokens) -> None:
    backend = FakeBackend()
    with engine(folder, backend, num_blocks=40) as core, backend.machine.no_host_reads():
        said = run_requests(core, requests())
    assert same({name: one.token_ids for name, one in said.items()}, expected)


# Bugs planted in the core


def slot_off_by_one(patch: pytest.MonkeyPatch) -> None:
    right = TorchModelRunner._slots
    patch.setattr(TorchModelRunner, "_slots", lambda self, *args: right(self, *args) + 1)


def block_handed_out_twice(patch: pytest.MonkeyPatch) -> None:
    right = BlockManager.allocate
    last = [1]

    def allocate(self: BlockManager, count: int) -> list[int]:
        taken = right(self, count)
        if len(last) == 6:  # this one still belongs to another
            taken[-1:] = last[-1:]
        last.extend(taken[-1:])
        return taken

    patch.setattr(BlockManager, "allocate", allocate)


def blocks_not_entered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RequestTable, "append_blocks", lambda self, triples: None)


def prefix_of_another(patch: pytest.MonkeyPatch) -> None:
    """Any block that holds something is taken for the one that was looked for."""
    patch.setattr(
        BlockManager,
        "find_prefix",
        lambda self, hashes: list(self._block_of.values())[:1] if list(hashes) else [],
    )


def stale_graph_input(patch: pytest.MonkeyPatch) -> None:
    """The rows of the first step stay."""
    right = DecodeGraphs.run

    def run(self: DecodeGraphs, rows: torch.Tensor) -> Any:
        if self._copied is not None:
            self._copied = rows
        return right(self, rows)

    patch.setattr(DecodeGraphs, "run", run)


def length_baked_into_the_graph(patch: pytest.MonkeyPatch) -> None:
    def batch(**fields: Any) -> Any:
        return AttentionBatch(**{**fields, "seq_lens": torch.ones_like(fields["seq_lens"])})

    patch.setattr(decode_graphs, "AttentionBatch", batch)


def event_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    right = model_runner._Launched

    def launched(plan: Any, event: Any, *rest: Any) -> Any:
        event.point = None
        return right(plan, event, *rest)

    patch.setattr(model_runner, "_Launched", launched)


def staging_used_too_soon(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(step_upload, "_BUFFERS", 1)


BUGS: dict[Callable[[pytest.MonkeyPatch], None], type[Exception] | None] = {
    slot_off_by_one: KVReadError,
    block_handed_out_twice: KVWriteError,
    blocks_not_entered: KVReadError,
    stale_graph_input: KVReadError,
    length_baked_into_the_graph: KVReadError,
    # Seen by what comes out.
    prefix_of_another: None,
    event_not_waited_for: None,
    staging_used_too_soon: None,
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_bug_of_the_core_is_seen(
    folder: Path,
    expected: Tokens,
    monkeypatch: pytest.MonkeyPatch,
    bug: Callable[[pytest.MonkeyPatch], None],
) -> None:
    backend = FakeBackend()
    bug(monkeypatch)
    backend.machine.haste = 0.0
    said: Tokens = {}
    # The core may notice the bug by itself, later; closing it runs what is left of the garbage.
    with (
        suppress(WindlassError, IndexError, RuntimeError),
        engine(folder, backend, num_blocks=12) as core,
    ):
        for request in requests():
            core.add_request(request)
            said[request.request_id] = []
        while core.has_work and not backend.machine.errors:
            for output in core.step():
                said[output.request_id] += output.new_token_ids
    kind = BUGS[bug]
    if kind is not None:
        assert isinstance(backend.machine.errors[0], kind)
    else:
        assert backend.machine.errors or not same(said, expected)


def test_a_model_that_reads_on_the_host_is_seen_when_it_is_captured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Decoder.logits
    monkeypatch.setattr(
        Decoder, "logits", lambda self, hidden: right(self, hidden) * float(hidden.abs().max() > 0)
    )
    engines = engine(folder, FakeBackend(), num_blocks=12)
    with pytest.raises(HostReadError, match="during a capture"):
        engines.__enter__()
