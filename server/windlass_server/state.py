"""What all requests of one server share: its models, the phase, the counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from windlass.errors import EngineDeadError
from windlass.text import TokensPrompt
from windlass_server.access.control import AccessControl
from windlass_server.batches.service import Batches
from windlass_server.chat.call import ChatCall
from windlass_server.engine import Engine
from windlass_server.errors import ApiError, shutting_down, unavailable
from windlass_server.metrics import ServerMetrics
from windlass_server.models.pool import ModelPool, model_loading
from windlass_server.models.served_model import ServedModel
from windlass_server.operations.exposition import Exposition
from windlass_server.operations.tracing import Tracer
from windlass_server.processes.metrics import PeerMetrics
from windlass_server.processes.peers import Peers
from windlass_server.responses.background import BackgroundResponses
from windlass_server.responses.store import ResponseStore
from windlass_server.settings import ServerSettings


class ServerState:
    """Loading until the first models are there, then serving until `draining`.

    `stopping` ends what is left then. `metrics` are those of the default model, which also count
    what belongs to none. `peers` are the other API processes where there are several.
    """

    def __init__(self, settings: ServerSettings, peers: Peers | None = None) -> None:
        self.settings = settings
        self.peers = peers
        self.models = ModelPool(
            (ServedModel(model, settings.template_timeout) for model in settings.models),
            settings.swap,
        )
        self.access = AccessControl(
            settings.access, self.metrics, settings.processes.api_server_count
        )
        self.exposition = Exposition(settings.operations.metrics_names)
        endpoint = settings.operations.traces_endpoint
        self.tracer = None if endpoint is None else Tracer(endpoint)
        self.responses = ResponseStore(
            settings.max_stored_responses,
            settings.max_stored_response_bytes,
            settings.response_ttl,
        )
        self.background = BackgroundResponses(self.responses, settings.max_background_responses)
        batch_dir = settings.batches.directory
        self.batches = None if batch_dir is None else Batches(batch_dir, settings.batches)
        self.peer_metrics = None if peers is None else PeerMetrics(peers, self.metrics)
        self.created = int(time.time())
        self.draining = False
        self.stopping = asyncio.Event()
        self.in_flight = 0
        self._started = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def metrics(self) -> ServerMetrics:
        """What is counted of HTTP, and of the default model."""
        return self.models.default.metrics

    def serve(self, engine: Engine | None = None) -> None:
        """Accept requests from now on; `engine`, if given, is that of the default model."""
        if engine is not None:
            self.models.default.serve(engine)
        self._started = True

    def require_serving(self) -> None:
        """Raise a 503 while the first models load or the server drains."""
        if self.draining:
            raise shutting_down()
        if not self._started:
            raise model_loading()

    def serving_engine(self, name: str | None = None) -> Engine:
        """Return the engine of a model (of the default one) if it is loaded.

        Raises:
            ApiError: 404, no such model; 503, it is not loaded, or the server does not serve.
        """
        self.require_serving()
        model = self.models.find(name)
        if model.engine is None:
            text = f"The model '{model.settings.name}' is not loaded now."
            raise unavailable(text, "model_not_loaded", 5.0)
        return model.engine

    def ended_by_server(self, model: ServedModel, engine: Engine) -> ApiError | None:
        """Return why calls on `engine` failed if nothing went wrong with it: the server stops, or
        `model` was unloaded."""
        if self.stopping.is_set():
            return shutting_down()
        return self.models.taken_away(model, engine)

    async def prompt(self, call: ChatCall, engine: Engine) -> TokensPrompt:
        """Return the prompt of `call`.

        Raises:
            RequestError: no template, messages it refuses, too much text, or too slow.
        """
        return await self.models.of(engine).prompt(call, engine)

    def require_ready(self) -> None:
        """Raise a 503 that says why requests are not accepted now."""
        self.require_serving()
        if all(model.asleep for model in self.models.models):
            raise unavailable("The model sleeps: POST /wake_up.", "model_sleeping", 30.0)
        engines = [model.engine for model in self.models.loaded]
        if engines and not any(engine.is_ready for engine in engines if engine is not None):
            raise unavailable("The engine is restarting.", "engine_restarting", 5.0)

    def require_alive(self) -> None:
        """Raise a 503 when an engine is dead or hangs; a server that loads is alive."""
        for model in self.models.loaded:
            try:
                if model.engine is not None:
                    model.engine.check_health()
            except EngineDeadError as exc:
                retry_after = exc.retry_after or 5.0
                raise unavailable("The engine is down.", "engine_dead", retry_after) from exc

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count one HTTP request as in flight."""
        self.in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until no HTTP request is in flight."""
        await self._idle.wait()
