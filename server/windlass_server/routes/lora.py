"""`POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`: known, and not there."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from windlass_server.errors import ApiError

router = APIRouter()


@router.post("/v1/load_lora_adapter", include_in_schema=False)
@router.post("/v1/unload_lora_adapter", include_in_schema=False)
async def lora_adapter() -> Response:
    """Say that this server has no LoRA adapters."""
    raise ApiError(
        501,
        "LoRA adapters are not supported: serve a checkpoint with the adapter merged into it.",
        code="not_implemented",
        headers={"x-should-retry": "false"},
    )
