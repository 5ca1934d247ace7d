"""Lines of a batch for the model of the tests."""

from __future__ import annotations

from typing import Any

import httpx

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]


def line(custom_id: str, url: str = CHAT, **body: Any) -> dict[str, Any]:
    """A line of a batch: a chat unless told otherwise."""
    body = {"model": "fake-model", **({"messages": MESSAGES} if url == CHAT else {}), **body}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def code_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]
