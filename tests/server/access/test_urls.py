"""No address in a request makes the server open a connection.

What schemas make of theirs is in `tests/integration/test_structured_output.py`, where they are
compiled.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from limited_calls import GENERATING, MODEL

from windlass_server.batches.settings import BatchSettings
from windlass_server.openapi import BODIES

if TYPE_CHECKING:
    from tests.server.conftest import MakeClient

    from windlass_server.state import ServerState

pytestmark = pytest.mark.anyio


class Canary:
    """Listens, and counts those who come."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.visits = 0

    def urls(self) -> list[str]:
        """Ways to write its address."""
        port = self.port
        return [
            f"http://127.0.0.1:{port}/a.png",
            f"http://localhost:{port}/schema.json#/$defs/a",
            f"http://2130706433:{port}/",
            f"http://0x7f.1:{port}/",
            f"http://[::ffff:127.0.0.1]:{port}/",
            f"http://example.org@127.0.0.1:{port}/",
            f"http://127.0.0.1:{port}\\@example.org/",
            f"//127.0.0.1:{port}/",
            f"ftp://127.0.0.1:{port}/",
            f"127.0.0.1:{port}",
        ]


@asynccontextmanager
async def listening() -> AsyncIterator[Canary]:
    async def visited(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        canary.visits += 1
        writer.close()

    server = await asyncio.start_server(visited, "127.0.0.1", 0)
    canary = Canary(server.sockets[0].getsockname()[1])
    async with server:
        yield canary


def user(*content: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}]}


def function(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


def changes(url: str) -> dict[str, list[dict[str, Any]]]:
    """Route -> fields with an address wherever a client may think that one belongs."""
    reference: dict[str, Any] = {"$ref": url}
    schema = {"type": "object", "properties": {"a": reference}, "$schema": url, "$id": url}
    named = {"name": "n", "schema": schema}
    image = {"type": "image_url", "image_url": {"url": url}}
    tool = {"type": "mcp", "server_label": "x", "server_url": url}
    document = {"type": "document", "source": {"type": "url", "url": url}}
    part = {"type": "input_image", "image_url": url}
    file = {"type": "input_file", "file_url": url}
    source = {"type": "image", "source": {"type": "url", "url": url}}
    return {
        "/v1/chat/completions": [
            user(image),
            user({"type": "text", "text": url}, image),
            user({"type": "file", "file": {"file_id": url, "file_data": url, "filename": url}}),
            user({"type": "input_audio", "input_audio": {"data": url, "format": "wav"}}),
            user({"type": "video_url", "video_url": {"url": url}}),
            {"tools": [function(schema)]},
            {"tools": [function(schema)], "tool_choice": "required"},
            {"tools": [tool]},
            {"response_format": {"type": "json_schema", "json_schema": named}},
            {"response_format": {"type": "json_schema", "json_schema": {**named, "strict": True}}},
            {"guided_json": schema},
            {"guided_grammar": f'start: %import "{url}"'},
            {"structured_outputs": {"json": schema}},
            {"chat_template": f"{{% include '{url}' %}}"},
            {"chat_template_kwargs": {"url": url}},
            {"documents": [{"title": "t", "text": url}]},
            {"metadata": {"webhook": url}},
            {"web_search_options": {"user_location": url}},
            {"user": url, "safety_identifier": url},
            {"model": url},
            {"logits_processors": [url]},
        ],
        "/v1/completions": [{"prompt": url}, {"guided_json": schema}, {"user": url}],
        "/v1/responses": [
            {"input": [{"role": "user", "content": [part]}]},
            {"input": [{"role": "user", "content": [file]}]},
            {"tools": [tool]},
            {"tools": [{"type": "file_search", "vector_store_ids": [url]}]},
            {"tools": [{"type": "function", "name": "f", "parameters": schema}]},
            {"text": {"format": {"type": "json_schema", **named}}},
            {"metadata": {"webhook": url}, "background": True},
            {"prompt": {"id": url}},
            {"previous_response_id": url},
            {"input": [{"type": "item_reference", "id": url}]},
        ],
        "/v1/messages": [
            user(source),
            user(document),
            {"mcp_servers": [{"type": "url", "url": url, "name": "x"}]},
            {"tools": [{"name": "f", "input_schema": schema}]},
            {"tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]},
            {"metadata": {"user_id": url}},
        ],
        "/v1/messages/count_tokens": [user(source)],
        "/v1/responses/input_tokens": [{"input": [{"role": "user", "content": [part]}]}],
        "/tokenize": [{"prompt": url}, {**user(image), "prompt": None}],
        "/detokenize": [{"tokens": [url]}],
        "/v1/embeddings": [{"input": [url]}, {"messages": user(image)["messages"]}],
        "/rerank": [{"query": url, "documents": [url, {"image": url}]}],
        "/v1/rerank": [{"query": url, "documents": [{"text": url}]}],
        "/v2/rerank": [{"query": url, "documents": [url]}],
        "/score": [{"text_1": url, "text_2": [url]}],
        "/v1/score": [{"text_1": {"content": [image]}, "text_2": url}],
        "/v1/batches": [{"input_file_id": url, "endpoint": url, "completion_window": "24h"}],
        "/models/load": [{"model": url}],
        "/models/unload": [{"model": url}],
        "/v1/load_lora_adapter": [{"lora_name": "a", "lora_path": url}],
        "/v1/unload_lora_adapter": [{"lora_name": url}],
    }


BASES = {
    **GENERATING,
    "/tokenize": {**MODEL, "prompt": "Hello"},
    "/v1/messages/count_tokens": {**MODEL, "messages": []},
}


async def test_an_address_anywhere_in_a_request_is_not_visited(
    make_state: Callable[..., ServerState], make_client: MakeClient, tmp_path: Path
) -> None:
    batches = BatchSettings(directory=str(tmp_path / "batches"))
    state = make_state(batches=batches, trust_request_chat_template=True)
    client = await make_client(state=state)
    async with listening() as canary:
        for url in canary.urls():
            for path, bodies in changes(url).items():
                for change in bodies:
                    headers = {"host": "localhost", "referer": url, "x-request-id": url}
                    body = {**BASES.get(path, MODEL), **change}
                    response = await client.post(path, json=body, headers=headers)
                    assert response.status_code in (200, 400, 404, 501), (
                        path,
                        change,
                        response.text,
                    )
            content = json.dumps({"custom_id": "a", "url": url, "method": "POST", "body": {}})
            await client.post(
                "/v1/files", data={"purpose": "batch"}, files={"file": (url, content.encode())}
            )
        await asyncio.sleep(0.1)
        assert canary.visits == 0
        _, writer = await asyncio.open_connection("127.0.0.1", canary.port)
        writer.close()
        async with asyncio.timeout(10):
            while not canary.visits:
                await asyncio.sleep(0.001)
    if state.batches is not None:
        state.batches.close()


def test_every_route_that_takes_a_body_is_tried() -> None:
    assert changes("").keys() >= BODIES.keys() - {"/v1/load_lora_adapter"}
