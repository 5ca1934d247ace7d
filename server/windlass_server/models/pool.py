"""All models of a server: which are loaded, who waits for one, and who has to go for it.

Models are loaded one after another, in the order in which they were first asked for. For a model
that does not fit beside the others, the loaded one that was not used for longest finishes what it
runs and goes; those who ask for it meanwhile wait until it is their turn again. So two models in
turn serve all that waited for one, then all that waited for the other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from starlette.types import Scope

from windlass.errors import ConfigError, EngineError, WindlassError
from windlass_server.engine import Engine
from windlass_server.errors import (
    ApiError,
    model_not_found,
    server_error,
    shutting_down,
    unavailable,
)
from windlass_server.models.served_model import Phase, ServedModel, StartEngine
from windlass_server.models.settings import SwapSettings

logger = logging.getLogger(__name__)

_IN_USE = "windlass_models_in_use"

Progress = Callable[[str, float], None]


@dataclass(eq=False)
class _Load:
    """One load of a model and those who wait for it; each gets a use of it with its end."""

    task: asyncio.Task[None] = field(init=False)
    waiting: int = 0
    granted: bool = False


class ModelPool:
    """The models by name, loaded when they are asked for; belongs to one event loop.

    `starters` starts the engine of each model; `progress` is told what is loaded.

    Raises:
        ConfigError: two models have the same name.
    """

    def __init__(self, models: Iterable[ServedModel], settings: SwapSettings) -> None:
        self.models = tuple(models)
        self.starters: dict[ServedModel, StartEngine] = {}
        self.progress: Progress = lambda what, share: None
        self._by_name: dict[str, ServedModel] = {}
        for model in self.models:
            for name in model.settings.names:
                if self._by_name.setdefault(name, model) is not model:
                    raise ConfigError(f"two models have the name {name!r}")
        self._settings = settings
        self._loads: dict[ServedModel, _Load] = {}
        self._failed_at: dict[ServedModel, float] = {}
        self._turn = asyncio.Lock()

    @property
    def default(self) -> ServedModel:
        """The model of requests that name none."""
        return self.models[0]

    @property
    def room(self) -> int:
        """How many models are loaded at a time."""
        return self._settings.max_loaded

    @property
    def loaded(self) -> list[ServedModel]:
        """The models that are in memory, the one that was not used for longest first."""
        present = [model for model in self.models if model.engine is not None]
        return sorted(present, key=lambda model: model.last_used)

    def find(self, name: str | None) -> ServedModel:
        """Return the model of this name, or the default one.

        Raises:
            ApiError: 404, there is none.
        """
        if name is None:
            return self.default
        model = self._by_name.get(name)
        if model is None:
            raise model_not_found(name)
        return model

    def of(self, engine: Engine) -> ServedModel:
        """Return the model that `engine` serves.

        Raises:
            ApiError: 503, it has been unloaded.
        """
        for model in self.models:
            if model.engine is engine:
                return model
        raise _unloaded()

    def taken_away(self, model: ServedModel, engine: Engine) -> ApiError | None:
        """Return what calls on `engine` are told if `model` does not have it any more."""
        if model.engine is engine:
            return None
        return _asleep(model) if model.asleep else _unloaded()

    # -- use ------------------------------------------------------------------------------

    async def enter(self, model: ServedModel) -> Engine:
        """Return the engine of `model`, loaded if need be; it stays until `model.leave()`.

        Raises:
            ApiError: 503, it sleeps, could not be loaded, or too many wait; nothing to leave then.
        """
        if not model.is_serving:
            try:
                await self._wait_for(model)
            except WindlassError as exc:
                logger.error("%s could not be loaded: %s", model.settings.name, exc)
                raise _not_loaded(model) from exc
        else:
            model.use()
        if model.engine is None:
            model.leave()
            raise _asleep(model) if model.asleep else _unloaded()
        return model.engine

    async def enter_for(self, scope: Scope, model: ServedModel) -> Engine:
        """Return the engine of `model`, which stays until `leave_all(scope)`; raises as `enter`."""
        engine = await self.enter(model)
        scope.setdefault("state", {}).setdefault(_IN_USE, []).append(model)
        return engine

    def leave_all(self, scope: Scope) -> None:
        """End what `enter_for` began for this request."""
        for model in scope["state"].pop(_IN_USE, ()):
            model.leave()

    async def load(self, model: ServedModel) -> None:
        """Load `model`, whether it sleeps or not.

        Raises:
            WindlassError: it cannot be loaded.
            ApiError: 503, too many wait.
        """
        model.asleep = False
        if not model.is_serving:
            self._failed_at.pop(model, None)
            await self._wait_for(model)
            model.leave()

    async def _wait_for(self, model: ServedModel) -> None:
        """Wait for a load of `model` that ends with a use of it for each who waits."""
        if model.asleep:
            raise _asleep(model)
        if sum(load.waiting for load in self._loads.values()) >= self._settings.max_waiting:
            text = f"{self._settings.max_waiting} requests wait for models to load; try later."
            raise unavailable(text, "server_overloaded", 5.0)
        load = self._loads.get(model) or self._begin(model)
        load.waiting += 1
        try:
            await asyncio.shield(load.task)
        except BaseException as exc:
            if load.granted:
                model.leave()
            else:
                load.waiting -= 1
            if load.task.cancelled() and isinstance(exc, asyncio.CancelledError):
                raise shutting_down() from None
            raise

    def _begin(self, model: ServedModel) -> _Load:
        since_failure = time.monotonic() - self._failed_at.get(model, float("-inf"))
        if since_failure < self._settings.retry_after:
            raise _not_loaded(model, self._settings.retry_after - since_failure)
        load = _Load()
        load.task = asyncio.create_task(self._load(model, load))
        # Whoever waits gets the error; when nobody is left it has been logged all the same.
        load.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._loads[model] = load
        return load

    # -- load and unload, one at a time ---------------------------------------------------

    async def _load(self, model: ServedModel, load: _Load) -> None:
        try:
            async with self._turn:
                if model.asleep:
                    raise _asleep(model)
                if not model.is_serving and await self._make_room(load):
                    await self._start(model)
                for _ in range(load.waiting):
                    model.use()
                load.granted = True
        finally:
            del self._loads[model]

    async def _start(self, model: ServedModel) -> None:
        model.phase = Phase.LOADING
        started = time.monotonic()
        try:
            engine = await self.starters[model](self.progress)
            try:
                model.serve(engine)
            except BaseException:
                await engine.shutdown()
                raise
        except Exception as exc:
            self._failed_at[model] = time.monotonic()
            if isinstance(exc, WindlassError):
                raise
            logger.debug("The engine did not start", exc_info=True)
            reason = f"{type(exc).__name__}: {exc}"
            raise EngineError(f"the engine could not start: {reason}") from exc
        finally:
            if model.engine is None:
                model.phase = Phase.UNLOADED
        logger.info("%s was loaded in %.1f s", model.settings.name, time.monotonic() - started)

    async def _make_room(self, load: _Load) -> bool:
        """Unload what has to go; returns False, and lets it stay, when nobody waits any more."""
        while load.waiting and len(self.loaded) >= self._settings.max_loaded:
            unused = [model for model in self.loaded if not model.in_use]
            victim = (unused or self.loaded)[0]
            victim.phase = Phase.LEAVING
            await victim.wait_unused()
            if not load.waiting and victim.engine is not None:
                victim.phase = Phase.LOADED
                break
            logger.info("%s is unloaded to make room", victim.settings.name)
            await victim.unload()
        return load.waiting > 0

    async def unload(self, model: ServedModel, *, sleep: bool = False, abort: bool = False) -> None:
        """Unload `model` when what runs on it has finished, or at once with `abort`.

        With `sleep` it refuses requests until `load`; else the next request loads it again.
        """
        model.asleep = model.asleep or sleep
        if abort and model.phase is Phase.LEAVING:
            await model.unload()  # whoever has the turn waits for what runs on it
        async with self._turn:
            if model.engine is None:
                return
            model.phase = Phase.LEAVING
            if not abort:
                await model.wait_unused()
            await model.unload()
            logger.info("%s was unloaded", model.settings.name)

    async def unload_idle(self) -> None:
        """Unload models that nobody used for `sleep_after` seconds, until cancelled."""
        limit = self._settings.sleep_after
        assert limit is not None
        while True:
            await asyncio.sleep(min(1.0, limit / 4))
            for model in self.loaded:
                idle = not model.in_use and time.monotonic() - model.last_used >= limit
                if idle and model.phase is Phase.LOADED and not self._turn.locked():
                    logger.info("%s was not used for %g s", model.settings.name, limit)
                    await self.unload(model)

    async def end_loads(self) -> None:
        """End every load: those who wait for one get a 503."""
        tasks = [load.task for load in self._loads.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """End every load and every engine."""
        await self.end_loads()
        await asyncio.gather(*(model.close() for model in self.models))


def model_loading() -> ApiError:
    """Return the 503 of a server whose first model is not there yet."""
    return unavailable("The model is loading; try again.", "model_loading", 5.0)


def _unloaded() -> ApiError:
    return unavailable("The model was unloaded; try again.", "model_unloaded", 1.0)


def _asleep(model: ServedModel) -> ApiError:
    name = model.settings.name
    return unavailable(f"The model '{name}' sleeps: POST /wake_up.", "model_sleeping", 30.0)


def _not_loaded(model: ServedModel, retry_after: float | None = None) -> ApiError:
    text = f"The model '{model.settings.name}' could not be loaded; the server's log says why."
    if retry_after is None:
        return server_error(text, "model_load_failed", retry=False)
    return unavailable(text, "model_load_failed", retry_after)
