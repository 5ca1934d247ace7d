"""`/v1/batches`: create, list, retrieve, cancel."""

from __future__ import annotations

from typing import TypeVar
from uuid import uuid4

import msgspec
from fastapi import APIRouter
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from windlass_server.access.caller import caller
from windlass_server.batches.records import BatchRecord
from windlass_server.batches.service import Batches
from windlass_server.body import parse_body
from windlass_server.protocol.batches import (
    Batch,
    BatchError,
    BatchErrors,
    BatchInputDetails,
    BatchList,
    BatchOutputDetails,
    BatchRequest,
    BatchUsage,
    RequestCounts,
)
from windlass_server.protocol.paging import limit_of
from windlass_server.routes.request import batches_of, json_response, server_state, warnings

router = APIRouter()

WINDOW = 24 * 3600
"""Seconds that a batch has."""
_PAGE = 20
_MOST = 100

Value = TypeVar("Value")


def _object(record: BatchRecord) -> Batch:
    return Batch(
        id=record.id,
        endpoint=record.endpoint,
        input_file_id=record.input_file_id,
        completion_window=record.completion_window,
        status=record.status,
        created_at=record.created_at,
        expires_at=record.expires_at,
        request_counts=RequestCounts(record.total, record.completed, record.failed),
        usage=BatchUsage(
            record.input_tokens,
            BatchInputDetails(record.cached_tokens),
            record.output_tokens,
            BatchOutputDetails(record.reasoning_tokens),
            record.input_tokens + record.output_tokens,
        ),
        metadata=None if record.metadata is None else msgspec.json.decode(record.metadata),
        errors=_errors(record),
        model=_there(record.model),
        output_file_id=_there(record.output_file_id),
        error_file_id=_there(record.error_file_id),
        in_progress_at=_there(record.in_progress_at),
        finalizing_at=_there(record.finalizing_at),
        completed_at=_there(record.completed_at),
        failed_at=_there(record.failed_at),
        expired_at=_there(record.expired_at),
        cancelling_at=_there(record.cancelling_at),
        cancelled_at=_there(record.cancelled_at),
    )


def _there(value: Value | None) -> Value | UnsetType:
    """Leave out of the answer what is not there yet."""
    return UNSET if value is None else value


def _errors(record: BatchRecord) -> BatchErrors | UnsetType:
    if record.errors is None:
        return UNSET
    return BatchErrors(msgspec.json.decode(record.errors, type=list[BatchError]))


@router.post("/v1/batches")
async def create_batch(request: Request) -> Response:
    """Queue the requests of a file."""
    batches, state = batches_of(request), server_state(request)
    body = await parse_body(request, BatchRequest)
    headers = warnings(body, {}, state)
    record = _record(batches, body, caller(request).owner)
    await batches.create(record)
    return json_response(_object(record), headers)


def _record(batches: Batches, body: BatchRequest, owner: str) -> BatchRecord:
    now, expiry = int(batches.clock()), body.output_expires_after
    metadata = None if body.metadata is None else msgspec.json.encode(body.metadata).decode()
    return BatchRecord(
        id=f"batch_{uuid4().hex}",
        owner=owner,
        endpoint=body.endpoint,
        input_file_id=body.input_file_id,
        completion_window=body.completion_window,
        status="validating",
        created_at=now,
        expires_at=now + WINDOW,
        output_ttl=int(batches.settings.file_ttl if expiry is None else expiry.seconds),
        metadata=metadata,
    )


@router.get("/v1/batches")
async def list_batches(request: Request) -> Response:
    """List batches, newest first."""
    query = request.query_params
    records, has_more = await batches_of(request).store.page(
        caller(request).owner, limit=limit_of(query, _PAGE, _MOST), after=query.get("after")
    )
    first, last = (records[0].id, records[-1].id) if records else ("", "")
    return json_response(BatchList([_object(record) for record in records], first, last, has_more))


@router.get("/v1/batches/{batch_id}")
async def retrieve_batch(request: Request, batch_id: str) -> Response:
    """Describe a batch."""
    record = await batches_of(request).store.get(caller(request).owner, batch_id)
    return json_response(_object(record))


@router.post("/v1/batches/{batch_id}/cancel")
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """End a batch; what has been done stays."""
    record = await batches_of(request).cancel(caller(request).owner, batch_id)
    return json_response(_object(record))
