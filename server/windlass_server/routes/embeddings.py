"""`POST /v1/embeddings`."""

from __future__ import annotations

import asyncio
import base64
from typing import cast

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from windlass.pooling import EmbedParams, PoolingOutput, floats
from windlass_server.engine import Engine
from windlass_server.pooling import pooled, usage_of
from windlass_server.protocol.embeddings import Embedding, EmbeddingList, EmbeddingRequest
from windlass_server.protocol.parameters import EMBEDDING_UNSUPPORTED
from windlass_server.routes.request import accept, server_state, whole_answer
from windlass_server.state import ServerState

router = APIRouter()


@router.post("/v1/embeddings")
async def create_embeddings(request: Request) -> Response:
    """Embed one input or several."""
    body, engine, headers = await accept(
        request, EmbeddingRequest, EMBEDDING_UNSUPPORTED, pools=True
    )
    return await whole_answer(request, _answer(server_state(request), engine, body), headers)


async def _answer(state: ServerState, engine: Engine, body: EmbeddingRequest) -> EmbeddingList:
    params = EmbedParams(
        dimensions=body.dimensions,
        normalize=body.normalize,
        truncate_prompt_tokens=body.truncate_prompt_tokens,
        prompt_name=body.prompt_name,
    )
    submission = engine.embed(body.inputs, params, priority=body.priority or 0)
    output = await pooled(state, state.models.of(engine).metrics, submission)
    # Millions of numbers as JSON would keep the event loop from everything else.
    encoded = await asyncio.to_thread(_encoded, output, body.encoding_format == "base64")
    return EmbeddingList(cast("list[Embedding]", encoded), body.model, usage_of(output))


def _encoded(output: PoolingOutput, as_base64: bool) -> msgspec.Raw:
    """The list of embeddings as JSON, which stands in an answer like the list itself."""
    listed = [
        Embedding(index, base64.b64encode(vector).decode() if as_base64 else floats(vector))
        for index, vector in enumerate(output.vectors)
    ]
    return msgspec.Raw(msgspec.json.encode(listed))
