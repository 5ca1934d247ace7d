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
from windlass_server.access.admission import Admission
from windlass_server.access.size import Size, estimated_tokens
from windlass_server.engine import Engine
from windlass_server.pooling import Submission, pooled, usage_of
from windlass_server.protocol.embeddings import Embedding, EmbeddingList, EmbeddingRequest
from windlass_server.protocol.parameters import EMBEDDING_UNSUPPORTED
from windlass_server.routes.request import accept, server_state, whole_answer
from windlass_server.state import ServerState

router = APIRouter()


@router.post("/v1/embeddings")
async def create_embeddings(request: Request) -> Response:
    """Embed one input or several."""
    body, engine, admission = await accept(
        request, EmbeddingRequest, EMBEDDING_UNSUPPORTED, pools=True
    )
    work = _answer(server_state(request), engine, body, admission)
    return await whole_answer(request, work, admission.headers)


async def _answer(
    state: ServerState, engine: Engine, body: EmbeddingRequest, admission: Admission
) -> EmbeddingList:
    params = EmbedParams(
        dimensions=body.dimensions,
        normalize=body.normalize,
        truncate_prompt_tokens=body.truncate_prompt_tokens,
        prompt_name=body.prompt_name,
    )
    inputs = body.inputs

    def submit() -> Submission:
        return engine.embed(inputs, params, priority=body.priority or 0)

    tokens = sum(map(estimated_tokens, inputs))
    output = await pooled(state, engine, admission, submit, Size(len(inputs), tokens))
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
