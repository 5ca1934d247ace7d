"""`POST /rerank`, `/v1/rerank`, `/v2/rerank`, and `POST /score`, `/v1/score`."""

from __future__ import annotations

import time
from uuid import uuid4

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from windlass.pooling import ScoreParams
from windlass.text.pairs import Pair, paired
from windlass_server.access.admission import Admission
from windlass_server.access.size import Size, estimated_tokens
from windlass_server.engine import Engine
from windlass_server.pooling import Submission, pooled, usage_of
from windlass_server.protocol.parameters import SCORE_UNSUPPORTED
from windlass_server.protocol.scores import (
    ApiVersion,
    BilledUnits,
    Document,
    InputTokens,
    RerankMeta,
    RerankRequest,
    RerankResponse,
    RerankResult,
    ScoreObject,
    ScoreRequest,
    ScoreResponse,
)
from windlass_server.routes.request import accept, server_state, whole_answer
from windlass_server.state import ServerState

router = APIRouter()

COHERE_DOCUMENT_TOKENS = 4096
"""Where Cohere's API cuts a document unless the request says otherwise."""
_RERANK_NAMES = {"input": "documents", "max_document_tokens": "max_tokens_per_doc"}
_SCORE_NAMES = {"input": "text_2"}


@router.post("/rerank")
@router.post("/v1/rerank")
async def rerank(request: Request) -> Response:
    """Sort documents by a query, in the shape of Jina's API: documents come back."""
    return await _rerank(request, cohere=False)


@router.post("/v2/rerank")
async def rerank_v2(request: Request) -> Response:
    """Sort documents by a query, as Cohere's API does: long documents are cut, not refused."""
    return await _rerank(request, cohere=True)


async def _rerank(request: Request, *, cohere: bool) -> Response:
    body, engine, admission = await accept(request, RerankRequest, SCORE_UNSUPPORTED, pools=True)
    work = _ranking(server_state(request), engine, body, admission, cohere=cohere)
    return await whole_answer(request, work, admission.headers)


async def _ranking(
    state: ServerState, engine: Engine, body: RerankRequest, admission: Admission, *, cohere: bool
) -> RerankResponse:
    truncate, keep = body.truncate_prompt_tokens, body.max_tokens_per_doc
    if cohere:
        truncate = -1 if truncate is None else truncate
        keep = COHERE_DOCUMENT_TOKENS if keep is None else keep
    params = ScoreParams(
        truncate_prompt_tokens=truncate, max_document_tokens=keep, instruction=body.instruction
    )
    texts = body.texts
    pairs = paired(body.query, texts)

    def submit() -> Submission:
        return engine.score(pairs, params, priority=body.priority or 0)

    output = await pooled(state, engine, admission, submit, _size(pairs), _RERANK_NAMES)
    best = sorted(range(len(texts)), key=lambda index: -output.scores[index])[: body.top_n]
    results = [RerankResult(index, output.scores[index]) for index in best]
    if not cohere if body.return_documents is None else body.return_documents:
        for result in results:
            result.document = Document(texts[result.index])
    return RerankResponse(
        id=f"rerank-{uuid4().hex}",
        model=body.model,
        results=results,
        usage=usage_of(output),
        meta=RerankMeta(
            ApiVersion("2" if cohere else "1"), BilledUnits(), InputTokens(output.prompt_tokens)
        ),
    )


@router.post("/score")
@router.post("/v1/score")
async def score(request: Request) -> Response:
    """Score one text against each of several, or pairs of texts."""
    body, engine, admission = await accept(request, ScoreRequest, SCORE_UNSUPPORTED, pools=True)
    work = _scores(server_state(request), engine, body, admission)
    return await whole_answer(request, work, admission.headers)


async def _scores(
    state: ServerState, engine: Engine, body: ScoreRequest, admission: Admission
) -> ScoreResponse:
    params = ScoreParams(
        truncate_prompt_tokens=body.truncate_prompt_tokens, instruction=body.instruction
    )
    pairs = paired(body.text_1, body.text_2)

    def submit() -> Submission:
        return engine.score(pairs, params, priority=body.priority or 0)

    output = await pooled(state, engine, admission, submit, _size(pairs), _SCORE_NAMES)
    return ScoreResponse(
        id=f"score-{uuid4().hex}",
        created=int(time.time()),
        model=body.model,
        data=[ScoreObject(index, value) for index, value in enumerate(output.scores)],
        usage=usage_of(output),
    )


def _size(pairs: list[Pair]) -> Size:
    tokens = sum(estimated_tokens(text) for pair in pairs for text in pair)
    return Size(len(pairs), tokens)
