"""Responses that are kept for later requests: in memory, bounded, expiring, each its owner's."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from windlass_server.protocol.response_objects import Response

_encode = msgspec.json.encode


@dataclass(slots=True)
class StoredResponse:
    """A response as JSON, and the items that went in and came out, as JSON too.

    `events` are those of a response that ran in the background, by sequence number.
    """

    id: str
    owner: str
    previous_id: str | None
    response: bytes
    inputs: bytes
    outputs: bytes
    events: tuple[bytes, ...] = ()
    expires: float = 0.0
    item_ids: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        owner: str,
        response: Response,
        inputs: list[dict[str, Any]],
        events: tuple[bytes, ...] = (),
    ) -> StoredResponse:
        """Make a record of a response that has ended."""
        ids = [*(str(item["id"]) for item in inputs), *(item.id for item in response.output)]
        return cls(
            response.id,
            owner,
            response.previous_response_id,
            _encode(response),
            _encode(inputs),
            _encode(response.output),
            events,
            item_ids=tuple(ids),
        )

    @property
    def size(self) -> int:
        """Bytes that this record counts for."""
        parts = (self.response, self.inputs, self.outputs, *self.events)
        return sum(map(len, parts)) + sum(map(len, self.item_ids))

    @property
    def input_items(self) -> list[dict[str, Any]]:
        """The items that went in."""
        return msgspec.json.decode(self.inputs, type=list[dict[str, Any]])

    @property
    def items(self) -> list[dict[str, Any]]:
        """The items that went in and came out."""
        return self.input_items + msgspec.json.decode(self.outputs, type=list[dict[str, Any]])


@dataclass(slots=True)
class ResponseStore:
    """Keeps at most `max_count` records and `max_bytes`, each for `ttl` seconds since its last use.

    The record that was unused for longest goes first. A record larger than `max_bytes` is not
    kept at all.
    """

    max_count: int
    max_bytes: int
    ttl: float
    clock: Callable[[], float] = time.monotonic
    size: int = 0
    _records: OrderedDict[str, StoredResponse] = field(default_factory=OrderedDict)
    _items: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: StoredResponse) -> None:
        """Keep a record."""
        if self.max_count < 1 or record.size > self.max_bytes:
            return
        self._expire()
        record.expires = self.clock() + self.ttl
        self._records[record.id] = record
        self.size += record.size
        self._items.update(dict.fromkeys(record.item_ids, record.id))
        while len(self._records) > self.max_count or self.size > self.max_bytes:
            self._drop(next(iter(self._records)))

    def get(self, owner: str, response_id: str) -> StoredResponse | None:
        """Return a record of `owner`, which counts as its use."""
        self._expire()
        record = self._records.get(response_id)
        if record is None or record.owner != owner:
            return None
        record.expires = self.clock() + self.ttl
        self._records.move_to_end(response_id)
        return record

    def delete(self, owner: str, response_id: str) -> bool:
        """Forget a record of `owner`; False when there is none."""
        if self.get(owner, response_id) is None:
            return False
        self._drop(response_id)
        return True

    def item(self, owner: str, item_id: str) -> dict[str, Any] | None:
        """Return an item of any response of `owner`."""
        record = self.get(owner, self._items.get(item_id, ""))
        items = record.items if record is not None else []
        return next((item for item in items if item["id"] == item_id), None)

    def conversation(self, owner: str, response_id: str | None) -> list[dict[str, Any]] | None:
        """Return the items of a response and of all before it; None when one is not there."""
        turns: list[list[dict[str, Any]]] = []
        seen: set[str] = set()
        while response_id is not None:
            record = self.get(owner, response_id)
            if record is None or response_id in seen:
                return None
            seen.add(response_id)
            turns.append(record.items)
            response_id = record.previous_id
        return [item for turn in reversed(turns) for item in turn]

    def _expire(self) -> None:
        now = self.clock()
        while self._records:
            oldest = next(iter(self._records.values()))
            if oldest.expires > now:
                return
            self._drop(oldest.id)

    def _drop(self, response_id: str) -> None:
        record = self._records.pop(response_id)
        self.size -= record.size
        for item_id in record.item_ids:
            if self._items.get(item_id) == response_id:
                del self._items[item_id]
