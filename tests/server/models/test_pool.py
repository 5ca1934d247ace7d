"""Which models are loaded, who waits, who has to go: with engines that load when the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from windlass.errors import ConfigError, ModelError
from windlass.text import Tokenizer
from windlass_server.engine import Engine
from windlass_server.errors import ApiError
from windlass_server.models.pool import ModelPool
from windlass_server.models.served_model import Phase, ServedModel
from windlass_server.models.settings import ModelSettings, SwapSettings

if TYPE_CHECKING:
    from tests.server.conftest import FakeEngine

pytestmark = pytest.mark.anyio


class Loads:
    """Makes an engine for whoever asks, and notes the order; `gate` holds loads up."""

    def __init__(self, tokenizer: Tokenizer, make: Callable[[Tokenizer], FakeEngine]) -> None:
        self.names: list[str] = []
        self.engines: list[FakeEngine] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken: set[str] = set()
        self._tokenizer, self._make = tokenizer, make

    def of(self, name: str) -> Any:
        async def start(_progress: object) -> FakeEngine:
            self.names.append(name)
            await self.gate.wait()
            if name in self.broken:
                raise ModelError(f"no such folder: /secret/{name}")
            self.engines.append(self._make(self._tokenizer))
            return self.engines[-1]

        return start


@pytest.fixture
async def loads(tokenizer: Tokenizer, engine: FakeEngine) -> Loads:
    return Loads(tokenizer, type(engine))


def pool_of(loads: Loads, *names: str, **settings: Any) -> ModelPool:
    models = [ServedModel(ModelSettings(names=(name,)), 5.0) for name in names]
    pool = ModelPool(models, SwapSettings(**settings))
    pool.starters = {model: loads.of(model.settings.name) for model in models}
    return pool


@asynccontextmanager
async def using(pool: ModelPool, model: ServedModel) -> AsyncIterator[Engine]:
    """A request to `model`."""
    engine = await pool.enter(model)
    try:
        yield engine
    finally:
        model.leave()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_model_is_loaded_once_for_all_who_wait(loads: Loads) -> None:
    pool = pool_of(loads, "a")
    loads.gate.clear()
    waiting = [asyncio.create_task(pool.enter(pool.default)) for _ in range(5)]
    await settle()
    assert pool.default.status == "loading"
    loads.gate.set()
    assert set(await asyncio.gather(*waiting)) == {loads.engines[0]}
    assert loads.names == ["a"]
    assert pool.default.in_use == 5


async def test_a_model_in_use_finishes_before_another_takes_its_place(loads: Loads) -> None:
    pool = pool_of(loads, "a", "b")
    a, b = pool.models
    await pool.enter(a)
    waiting = asyncio.create_task(pool.enter(b))
    await settle()
    assert (a.phase, b.engine) == (Phase.LEAVING, None)
    late = asyncio.create_task(pool.enter(a))  # comes too late: has to wait for its next turn
    await settle()
    assert not late.done()
    a.leave()
    assert await waiting is loads.engines[1]
    assert loads.engines[0].was_shut_down
    b.leave()
    assert await late is loads.engines[2]
    assert loads.names == ["a", "b", "a"]


async def test_the_model_that_was_not_used_for_longest_goes(loads: Loads) -> None:
    pool = pool_of(loads, "a", "b", "c", max_loaded=2)
    a, b, c = pool.models
    for model in (a, b, a, c):
        async with using(pool, model):
            pass
    assert [model.status for model in pool.models] == ["loaded", "unloaded", "loaded"]


async def test_a_model_in_use_is_passed_over_for_an_idle_one(loads: Loads) -> None:
    pool = pool_of(loads, "a", "b", "c", max_loaded=2)
    a, b, c = pool.models
    await pool.enter(a)
    async with using(pool, b):
        pass
    async with using(pool, c):
        assert [model.status for model in pool.models] == ["loaded", "unloaded", "loaded"]


async def test_two_models_in_turn_serve_everybody(loads: Loads) -> None:
    pool = pool_of(loads, "a", "b")
    served: list[str] = []

    async def use(model: ServedModel) -> None:
        async with using(pool, model):
            await asyncio.sleep(0)
            served.append(model.settings.name)

    async with asyncio.timeout(20):
        await asyncio.gather(*(use(pool.models[i % 2]) for i in range(40)))
    assert sorted(served) == ["a"] * 20 + ["b"] * 20
    assert loads.names == ["a", "b"]
    assert not any(model.in_use for model in pool.models)


async def test_who_leaves_while_waiting_holds_nothing(loads: Loads) -> None:
    pool = pool_of(loads, "a")
    loads.gate.clear()
    gone, stays = (asyncio.create_task(pool.enter(pool.default)) for _ in range(2))
    await settle()
    gone.cancel()
    await settle()
    loads.gate.set()
    await stays
    assert gone.cancelled()
    assert pool.default.in_use == 1


async def test_who_leaves_in_the_moment_of_the_load_holds_nothing(loads: Loads) -> None:
    pool = pool_of(loads, "a")
    waiting = asyncio.create_task(pool.enter(pool.default))
    while not pool.default.in_use:
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert pool.default.in_use == (0 if waiting.cancelled() else 1)


async def test_a_model_that_cannot_be_loaded_is_an_error_and_not_tried_at_once(
    loads: Loads,
) -> None:
    pool = pool_of(loads, "a", "b")
    loads.broken.add("b")
    bad = pool.models[1]
    for _ in range(2):
        with pytest.raises(ApiError) as caught:
            await pool.enter(bad)
        assert caught.value.error.code == "model_load_failed"
        assert "/secret" not in str(caught.value)
    assert loads.names == ["b"]
    with pytest.raises(ModelError, match="no such folder"):
        await pool.load(bad)  # an operator may try at once, and is told why
    assert loads.names == ["b", "b"]
    assert await pool.enter(pool.default) is loads.engines[0]


async def test_so_many_may_wait_and_no_more(loads: Loads) -> None:
    pool = pool_of(loads, "a", max_waiting=2)
    loads.gate.clear()
    waiting = [asyncio.create_task(pool.enter(pool.default)) for _ in range(2)]
    await settle()
    with pytest.raises(ApiError) as caught:
        await pool.enter(pool.default)
    assert caught.value.error.code == "server_overloaded"
    loads.gate.set()
    await asyncio.gather(*waiting)


async def test_a_sleeping_model_refuses_until_it_is_loaded(loads: Loads) -> None:
    pool = pool_of(loads, "a")
    model = pool.default
    await pool.enter(model)
    sleeping = asyncio.create_task(pool.unload(model, sleep=True))
    await settle()
    with pytest.raises(ApiError) as caught:
        await pool.enter(model)
    assert caught.value.error.code == "model_sleeping"
    assert not sleeping.done()  # what runs is waited for
    model.leave()
    await sleeping
    assert (model.status, model.engine) == ("sleeping", None)
    await pool.load(model)
    assert await pool.enter(model) is loads.engines[1]


async def test_a_model_that_is_woken_while_it_falls_asleep_serves_again(loads: Loads) -> None:
    pool = pool_of(loads, "a")
    await pool.enter(pool.default)
    sleeping = asyncio.create_task(pool.unload(pool.default, sleep=True))
    await settle()
    waking = asyncio.create_task(pool.load(pool.default))
    pool.default.leave()
    await asyncio.gather(sleeping, waking)
    assert pool.default.status == "loaded"


async def test_abort_does_not_wait(loads: Loads) -> None:
    pool = pool_of(loads, "a")
    await pool.enter(pool.default)
    await pool.unload(pool.default, sleep=True, abort=True)
    assert loads.engines[0].was_shut_down


async def test_abort_does_not_wait_for_whoever_waits_for_the_model(loads: Loads) -> None:
    pool = pool_of(loads, "a", "b")
    a, b = pool.models
    await pool.enter(a)
    asks_for_b = asyncio.create_task(pool.enter(b))
    await settle()
    aborting = asyncio.create_task(pool.unload(a, abort=True))
    await settle()
    assert loads.engines[0].was_shut_down
    a.leave()
    await asyncio.gather(asks_for_b, aborting)
    assert (a.status, b.status) == ("unloaded", "loaded")


async def test_who_waited_for_a_model_that_is_aborted_at_once_is_told_that_it_sleeps(
    loads: Loads,
) -> None:
    pool = pool_of(loads, "a")
    loads.gate.clear()
    waiting = asyncio.create_task(pool.enter(pool.default))
    await settle()
    aborting = asyncio.create_task(pool.unload(pool.default, sleep=True, abort=True))
    await settle()
    loads.gate.set()
    with pytest.raises(ApiError, match="sleeps"):
        await waiting
    await aborting
    assert not pool.default.in_use


async def test_nobody_makes_room_for_those_who_left(loads: Loads) -> None:
    pool = pool_of(loads, "a", "b")
    a, b = pool.models
    await pool.enter(a)
    gone = asyncio.create_task(pool.enter(b))
    await settle()
    stays = asyncio.create_task(pool.enter(a))
    await settle()
    gone.cancel()
    a.leave()
    assert await stays is loads.engines[0]
    assert loads.names == ["a"]
    assert (a.status, a.in_use, b.status) == ("loaded", 1, "unloaded")


async def test_an_idle_model_gives_its_memory_back_and_comes_again(loads: Loads) -> None:
    pool = pool_of(loads, "a", sleep_after=0.02)
    watch = asyncio.create_task(pool.unload_idle())
    async with using(pool, pool.default):
        await asyncio.sleep(0.05)
        assert pool.default.status == "loaded"
    async with asyncio.timeout(10):
        while pool.default.engine is not None:
            await asyncio.sleep(0.005)
    async with using(pool, pool.default) as engine:
        assert engine is loads.engines[1]
    watch.cancel()


async def test_the_end_of_the_server_ends_loads_and_tells_those_who_wait(loads: Loads) -> None:
    pool = pool_of(loads, "a")
    loads.gate.clear()
    waiting = asyncio.create_task(pool.enter(pool.default))
    await settle()
    await pool.close()
    with pytest.raises(ApiError) as caught:
        await waiting
    assert caught.value.error.code == "shutting_down"


async def test_a_name_belongs_to_one_model(loads: Loads) -> None:
    with pytest.raises(ConfigError, match="two models have the name 'a'"):
        pool_of(loads, "a", "a")
    pool = pool_of(loads, "a", "b")
    assert pool.find("b") is pool.models[1]
    assert pool.find(None) is pool.default
    with pytest.raises(ApiError) as caught:
        pool.find("c")
    assert caught.value.status == 404
