"""A server in this process that keeps files and runs batches, and how to talk to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import httpx
import pytest
from openai.types import Batch, FileObject
from published_schema import check

from windlass_server.app import create_app
from windlass_server.batches.service import Batches
from windlass_server.batches.settings import BatchSettings

if TYPE_CHECKING:
    from windlass_server.state import ServerState

CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")


def jsonl(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


class Desk:
    """A server and its clock, which stands still unless a test moves it."""

    def __init__(self, state: ServerState, folder: Path) -> None:
        self.now = 1_700_000_000.0
        self.state = state
        self._folder = folder
        self.open()
        self.app = create_app(state)
        self._headers: dict[str, str] = {}

    def open(self) -> None:
        """Take the folder, as a server does that starts."""
        self.batches = Batches(str(self._folder), self.state.settings.batches, lambda: self.now)
        self.state.batches = self.batches

    def close(self) -> None:
        """Give the folder back."""
        self.batches.close()

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Run batches."""
        worker = asyncio.create_task(self.batches.work(self.app, self.state))
        try:
            yield
        finally:
            worker.cancel()
            with suppress(asyncio.CancelledError):
                await worker

    def use_key(self, key: str) -> None:
        self._headers = {"authorization": f"Bearer {key}"}

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        headers = {**self._headers, **options.pop("headers", {})}
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.request(method, path, headers=headers, **options)

    async def upload(self, content: bytes, **fields: str) -> httpx.Response:
        return await self.request(
            "POST",
            "/v1/files",
            files={"file": ("in.jsonl", content)},
            data={"purpose": "batch", **fields},
        )

    async def file(self, *lines: dict[str, Any]) -> FileObject:
        response = await self.upload(jsonl(*lines))
        assert response.status_code == 200, response.text
        return check(response.content, FileObject)

    async def create(self, file_id: str, endpoint: str = CHAT, **fields: Any) -> httpx.Response:
        body = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"}
        return await self.request("POST", "/v1/batches", json={**body, **fields})

    async def batch(self, *lines: dict[str, Any], **fields: Any) -> Batch:
        """Queue these lines."""
        file = await self.file(*lines)
        response = await self.create(file.id, **fields)
        assert response.status_code == 200, response.text
        return check(response.content, Batch)

    async def look(self, batch_id: str) -> Batch:
        response = await self.request("GET", f"/v1/batches/{batch_id}")
        return check(response.content, Batch)

    async def wait(self, batch_id: str, until: Callable[[Batch], bool] | None = None) -> Batch:
        """Wait until a batch has ended, or `until` holds."""
        async with asyncio.timeout(20):
            while True:
                batch = await self.look(batch_id)
                if batch.status in ENDED if until is None else until(batch):
                    return batch
                await asyncio.sleep(0.01)

    async def results(self, file_id: str | None) -> list[dict[str, Any]]:
        """The lines of an output or error file."""
        if file_id is None:
            return []
        response = await self.request("GET", f"/v1/files/{file_id}/content")
        assert response.status_code == 200
        return [json.loads(line) for line in response.text.splitlines()]


class MakeDesk(Protocol):
    """Makes a server with these settings of batches, and others of the server."""

    async def __call__(self, *, server: dict[str, Any] | None = None, **settings: Any) -> Desk: ...


@pytest.fixture
async def make_desk(
    make_state: Callable[..., ServerState], tmp_path: Path
) -> AsyncIterator[MakeDesk]:
    async with AsyncExitStack() as stack:

        async def make(*, server: dict[str, Any] | None = None, **settings: Any) -> Desk:
            limits = BatchSettings(**settings)
            desk = Desk(make_state(batches=limits, **server or {}), tmp_path / "batches")
            stack.callback(desk.close)
            return desk

        yield make


@pytest.fixture
async def desk(make_desk: MakeDesk) -> Desk:
    """A server that keeps files; batches wait until the test lets it work."""
    return await make_desk()
