"""`/openapi.json` describes every route, and is a valid document."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import jsonschema
import pytest

from windlass_server.app import create_app
from windlass_server.openapi import BODIES, FORMS
from windlass_server.state import ServerState

pytestmark = pytest.mark.anyio

WITHOUT_BODY = {
    "/v1/responses/{response_id}/cancel",
    "/v1/batches/{batch_id}/cancel",
    "/sleep",
    "/wake_up",
}


async def test_every_post_says_what_it_takes(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    posts = {path for path, methods in document["paths"].items() if "post" in methods}
    assert posts - WITHOUT_BODY == {*BODIES, *FORMS}
    for path in BODIES:
        schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        name = schema["schema"]["$ref"].rpartition("/")[2]
        assert document["components"]["schemas"][name]["type"] == "object"


async def test_the_schemas_are_valid_and_whole(make_state: Callable[..., ServerState]) -> None:
    document = create_app(make_state()).openapi()
    schemas = document["components"]["schemas"]
    for name in schemas:
        whole = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}
        jsonschema.Draft202012Validator.check_schema(whole)
        validator = jsonschema.Draft202012Validator(whole)
        list(validator.iter_errors({}))  # raises for a reference to nothing


async def test_it_needs_the_key(make_client: Callable[..., httpx.AsyncClient]) -> None:
    client = await make_client(api_keys=("secret",))  # type: ignore[misc]
    assert (await client.get("/openapi.json")).status_code == 401


async def test_a_form_says_which_fields_it_has(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    for path in FORMS:
        content = document["paths"][path]["post"]["requestBody"]["content"]
        jsonschema.Draft202012Validator.check_schema(content["multipart/form-data"]["schema"])
