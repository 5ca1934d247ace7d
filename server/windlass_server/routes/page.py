"""`GET /` and `GET /ui/{name}`: the page and its files. What it shows needs the key."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from windlass_server.page import HEADERS, INDEX, PREFIX, Asset, assets

router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
async def index(request: Request) -> Response:
    """Answer with the page."""
    return _answer(request, assets()[INDEX])


@router.api_route(PREFIX + "{name}", methods=["GET", "HEAD"])
async def asset(request: Request, name: str) -> Response:
    """Answer with one of the page's files; 404 for any other name."""
    found = assets().get(name)
    if found is None or name == INDEX:
        raise HTTPException(404)
    return _answer(request, found)


def _answer(request: Request, asset: Asset) -> Response:
    headers = {**HEADERS, "ETag": asset.etag}
    if request.headers.get("if-none-match") == asset.etag:
        return Response(status_code=304, headers=headers)
    return Response(asset.data, headers=headers, media_type=asset.media_type)
