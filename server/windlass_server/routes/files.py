"""`/v1/files`: upload, list, retrieve, delete, download."""

from __future__ import annotations

from fastapi import APIRouter
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from windlass_server.access.caller import caller
from windlass_server.batches.records import FileRecord
from windlass_server.batches.upload import UploadForm, store_upload
from windlass_server.protocol.files import FileDeleted, FileList, FileObject
from windlass_server.protocol.paging import is_ascending, limit_of
from windlass_server.routes.request import batches_of, json_response

router = APIRouter()

_MOST = 10_000


def _object(record: FileRecord) -> FileObject:
    return FileObject(
        id=record.id,
        bytes=record.bytes,
        created_at=record.created_at,
        filename=record.filename,
        purpose=record.purpose,
        expires_at=UNSET if record.expires_at is None else record.expires_at,
    )


@router.post("/v1/files")
async def create_file(request: Request) -> Response:
    """Keep a file that is uploaded as a form."""
    files = batches_of(request).files
    form = UploadForm(request.headers.get("content-type", ""))
    record = await store_upload(files, caller(request).owner, form, request.stream())
    return json_response(_object(record))


@router.get("/v1/files")
async def list_files(request: Request) -> Response:
    """List files by age."""
    files, query = batches_of(request).files, request.query_params
    records, has_more = await files.page(
        caller(request).owner,
        query.get("purpose"),
        limit=limit_of(query, _MOST, _MOST),
        after=query.get("after"),
        ascending=is_ascending(query),
    )
    first, last = (records[0].id, records[-1].id) if records else ("", "")
    return json_response(FileList([_object(record) for record in records], first, last, has_more))


@router.get("/v1/files/{file_id}")
async def retrieve_file(request: Request, file_id: str) -> Response:
    """Describe a file."""
    return json_response(
        _object(await batches_of(request).files.get(caller(request).owner, file_id))
    )


@router.delete("/v1/files/{file_id}")
async def delete_file(request: Request, file_id: str) -> Response:
    """Delete a file."""
    await batches_of(request).files.delete(caller(request).owner, file_id)
    return json_response(FileDeleted(file_id))


@router.get("/v1/files/{file_id}/content")
async def file_content(request: Request, file_id: str) -> Response:
    """Send the bytes of a file."""
    files = batches_of(request).files
    record = await files.get(caller(request).owner, file_id)
    return FileResponse(
        files.path(record.id), media_type="application/octet-stream", filename=record.filename
    )
