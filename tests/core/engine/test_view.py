"""A view of the engine: who holds which block, what is cached, and that it is bounded."""

from __future__ import annotations

import msgspec
import pytest
from engine_runners import fast

from windlass.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from windlass.engine import view as view_module
from windlass.engine.core import EngineCore
from windlass.engine.view import EngineView, take_view
from windlass.request import Request, SamplingParams

PREFIX = [7] * 32
"""Two full blocks."""


def make_core(**scheduler: int) -> EngineCore:
    config = EngineConfig(
        model=ModelConfig(model="counting"),
        cache=CacheConfig(num_blocks=64),
        scheduler=SchedulerConfig(**scheduler),
    )
    runner = fast(config)
    return EngineCore(config, runner.load(), runner, clock=lambda: 100.0)


def add(core: EngineCore, request_id: str, prompt: list[int], max_tokens: int = 40) -> None:
    sampling = SamplingParams(max_tokens=max_tokens, seed=0, ignore_eos=True)
    core.add_request(
        Request(
            request_id=request_id,
            prompt_token_ids=prompt,
            sampling=sampling,
            arrival_time=97.5,
        )
    )


def step(core: EngineCore, count: int) -> None:
    for _ in range(count):
        core.step()


def finish(core: EngineCore) -> None:
    while core.has_work:
        core.step()


def block(view: EngineView, block_id: int) -> int:
    return view.blocks[block_id - 1]


def test_an_idle_engine_shows_only_free_blocks() -> None:
    view = make_core().view()
    assert view.sequences == []
    assert view.blocks == [0] * view.stats.num_blocks
    assert view.num_cached_blocks == 0


def test_a_running_request_is_listed_with_its_blocks() -> None:
    core = make_core()
    add(core, "a", [5] * 20)
    step(core, 4)
    view = core.view()
    [seq] = view.sequences
    assert (seq.request_id, seq.state, seq.num_prompt_tokens) == ("a", "running", 20)
    assert seq.num_output_tokens >= 1
    assert seq.num_computed_tokens >= 20
    assert seq.age == 2.5
    assert len(seq.block_ids) == seq.num_blocks == 2
    assert all(block(view, block_id) == 1 for block_id in seq.block_ids)
    assert sum(view.blocks) == 2
    assert view.block_size == 16


def test_requests_with_one_prefix_share_its_blocks() -> None:
    core = make_core()
    add(core, "a", [*PREFIX, 1])
    step(core, 4)
    add(core, "b", [*PREFIX, 2])
    step(core, 4)
    view = core.view()
    first, second = view.sequences
    assert first.block_ids[:2] == second.block_ids[:2]
    assert first.block_ids[2] != second.block_ids[2]
    assert [block(view, b) for b in second.block_ids] == [2, 2, 1]
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 32)
    assert view.stats.prefix_cache_hits == 32


def test_blocks_of_an_ended_request_stay_as_cached() -> None:
    core = make_core()
    add(core, "a", [*PREFIX, 1], max_tokens=1)
    finish(core)
    view = core.view()
    assert view.sequences == []
    assert sorted(set(view.blocks)) == [-1, 0]
    assert view.blocks.count(-1) == view.num_cached_blocks == 2
    core.reset_prefix_cache()
    assert set(core.view().blocks) == {0}


def test_those_that_wait_come_after_those_that_run_in_their_order() -> None:
    core = make_core(max_num_seqs=1)
    for name in ("a", "b", "c"):
        add(core, name, [5, 6])
    step(core, 2)
    views = core.view().sequences
    assert [(seq.request_id, seq.state) for seq in views] == [
        ("a", "running"),
        ("b", "waiting"),
        ("c", "waiting"),
    ]
    assert views[1].block_ids == []


def test_a_view_travels_as_one_message_and_holds_no_token() -> None:
    core = make_core()
    add(core, "a", [431, 432, 433])
    step(core, 2)
    view = core.view()
    data = msgspec.msgpack.encode(view)
    assert msgspec.msgpack.decode(data, type=EngineView) == view
    assert not {431, 432, 433} & set(view.sequences[0].block_ids)
    assert "token_ids" not in view.sequences[0].__struct_fields__


def test_lists_are_bounded_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_module, "MAX_SEQUENCES", 2)
    monkeypatch.setattr(view_module, "MAX_BLOCKS", 5)
    monkeypatch.setattr(view_module, "MAX_BLOCK_IDS", 4)
    core = make_core()
    for index in range(3):
        add(core, str(index), [index + 1] * 40)
    step(core, 2)
    view = take_view(core.scheduler, core.stats(), 100.0)
    assert [seq.request_id for seq in view.sequences] == ["0", "1"]
    assert view.sequences_left_out == 1
    assert len(view.blocks) == 5
    assert [seq.num_blocks for seq in view.sequences] == [3, 3]
    assert [len(seq.block_ids) for seq in view.sequences] == [3, 1]
    assert all(b <= 5 for seq in view.sequences for b in seq.block_ids)
