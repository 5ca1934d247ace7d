"""What decides on every call of one server: its keys, their limits and their turns."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from windlass.errors import ConfigError
from windlass_server.access.deadline import Deadline
from windlass_server.access.fair_queue import FairQueue, capacity_of
from windlass_server.access.keys import KeyRing, load_keys
from windlass_server.access.rate_limits import RateLimits
from windlass_server.access.settings import NO_LIMITS, AccessSettings
from windlass_server.metrics import ServerMetrics

if TYPE_CHECKING:
    from windlass_server.engine import Engine
    from windlass_server.models.served_model import ServedModel

logger = logging.getLogger(__name__)


def keys_of(settings: AccessSettings, processes: int) -> KeyRing:
    """Return the keys of a server with so many API processes.

    Raises:
        ConfigError: a key or the key file is wrong; a key has limits, and there are several
            processes, each of which would know only what it answered itself.
    """
    keys = load_keys(settings)
    limited = next((one.name for one in keys.callers if one.limits != NO_LIMITS), None)
    if processes > 1 and limited is not None:
        raise ConfigError(
            f"--api-server-count {processes} excludes limits of keys, which {limited!r} has: "
            "processes do not share what they count"
        )
    return keys


class AccessControl:
    """The keys of a server, what each has used, and a queue per model; of one event loop.

    `metrics` count who was refused and which deadlines passed. An engine that several API
    `processes` share has an equal share of its room for each.

    Raises:
        ConfigError: a key or the key file is wrong.
    """

    def __init__(
        self, settings: AccessSettings, metrics: ServerMetrics, processes: int = 1
    ) -> None:
        self.settings = settings
        self._processes = processes
        self.keys = keys_of(settings, processes)
        self.limits = RateLimits(lambda limit: metrics.rate_limited[limit].inc())
        self._metrics = metrics
        self._queues: dict[ServedModel, FairQueue] = {}

    def reload(self) -> None:
        """Read the key file again; what is wrong with it is logged and the old keys stay."""
        try:
            keys = keys_of(self.settings, self._processes)
        except ConfigError as exc:
            logger.error("The keys stay as they were: %s", exc)
            return
        self.keys = keys
        self.limits.forget_others(keys.callers)
        for queue in self._queues.values():
            queue.share_between(keys.callers)
        logger.info("The key file was read again: %d keys", len(keys))

    def queue_of(self, model: ServedModel, engine: Engine) -> FairQueue:
        """Return the queue in front of a model that is loaded."""
        settings = self.settings
        share = math.ceil(engine.info.max_num_seqs / self._processes)
        capacity = capacity_of(share, settings.max_queued_requests)
        queue = self._queues.get(model)
        if queue is None:
            queue = self._queues[model] = FairQueue(
                capacity,
                max_waiting=settings.max_queued_requests,
                max_waiting_tokens=settings.max_queued_tokens,
            )
            queue.share_between(self.keys.callers)
            model.metrics.calls_in_front = lambda: queue.waiting
        queue.capacity = capacity
        return queue

    def deadline(self) -> Deadline:
        """Return the deadlines of a call that arrives now."""
        settings = self.settings
        return Deadline(settings.queue_timeout, settings.request_timeout, self.deadline_passed)

    def deadline_passed(self, kind: str) -> None:
        """Count a call whose time was over."""
        self._metrics.deadlines_passed[kind].inc()
