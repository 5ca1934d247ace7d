"""Files and batches of one server: one folder, one database, one worker."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from windlass.errors import WindlassError
from windlass_server.batches.database import Database
from windlass_server.batches.files import FileStore
from windlass_server.batches.records import BatchRecord
from windlass_server.batches.settings import BatchSettings
from windlass_server.batches.store import BatchStore
from windlass_server.batches.worker import BatchWorker

if TYPE_CHECKING:
    from windlass_server.state import ServerState


class Batches:
    """What the routes and the worker share; `clock` is in seconds since 1970.

    Raises:
        WindlassError: the folder cannot be used, or another server uses it.
    """

    def __init__(
        self, directory: str, settings: BatchSettings, clock: Callable[[], float] = time.time
    ) -> None:
        folder = Path(directory)
        self._lock = _lock(folder)
        self.settings = settings
        self.clock = clock
        try:
            self.database = Database(folder / "batches.sqlite3")
        except BaseException:
            os.close(self._lock)
            raise
        self.files = FileStore(self.database, folder / "files", settings, clock)
        self.files.delete_orphans()
        self.store = BatchStore(self.database, settings, clock)
        self._news = asyncio.Event()
        self._stops: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def work(self, app: ASGIApp, state: ServerState) -> None:
        """Run batches on `app` until cancelled."""
        await BatchWorker(self, app, state).run()

    async def create(self, record: BatchRecord) -> None:
        """Queue a batch and tell the worker; raises what `BatchStore.create` raises."""
        await self.store.create(record)
        self._news.set()

    async def cancel(self, owner: str, batch_id: str) -> BatchRecord:
        """Ask for the end of a batch; raises what `BatchStore.cancel` raises."""
        record = await self.store.cancel(owner, batch_id)
        self._stops[batch_id].set()
        return record

    async def wait_for_news(self) -> None:
        """Wait until a batch was created since the last time."""
        await self._news.wait()
        self._news.clear()

    async def wait_for_stop(self, batch_id: str) -> None:
        """Wait until a batch is cancelled."""
        await self._stops[batch_id].wait()

    def ended(self, batch_id: str) -> None:
        """Note that nobody works on a batch any more; what has not ended is taken up again."""
        self._stops.pop(batch_id, None)
        self._news.set()

    def close(self) -> None:
        """Let another server use the folder."""
        self.database.close()
        os.close(self._lock)


def _lock(folder: Path) -> int:
    """Make the folder and hold it against other servers, which would run the same lines."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "files").mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as exc:
        raise WindlassError(f"cannot use --batch-dir {folder}: {exc.strerror or exc}") from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise WindlassError(f"another server uses --batch-dir {folder}") from None
    return descriptor
