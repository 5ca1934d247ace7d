"""The page's files: which there are, their headers, and that they ask nobody else for anything."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httpx
import pytest

from windlass_server.page import INDEX, assets, paths

if TYPE_CHECKING:
    from tests.server.conftest import MakeClient

pytestmark = pytest.mark.anyio


async def test_the_page_and_its_files_are_served(client: httpx.AsyncClient) -> None:
    for path in paths():
        response = await client.get(path)
        assert response.status_code == 200, path
        name = path.rpartition("/")[2] or INDEX
        assert response.content == assets()[name].data
        assert response.headers["content-type"] == assets()[name].media_type
        head = await client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == response.headers["content-length"]


async def test_every_file_that_is_named_is_there() -> None:
    for name, asset in assets().items():
        text = asset.data.decode()
        named = re.findall(r'(?:src|href)="ui/([^"]+)"|from "\./([^"]+)"', text)
        for pair in named:
            assert "".join(pair) in assets(), f"{name} names {pair}"


async def test_all_modules_are_loaded_at_once(client: httpx.AsyncClient) -> None:
    preloaded = re.findall(
        r'<link rel="modulepreload" href="ui/([^"]+)">', (await client.get("/")).text
    )
    modules = {name for name in assets() if name.endswith(".js")}
    assert set(preloaded) == modules - {"app.js"}


async def test_nothing_in_the_files_names_another_server() -> None:
    for name, asset in assets().items():
        addresses = set(re.findall(r"https?://[\w.-]+", asset.data.decode()))
        assert addresses <= {"http://www.w3.org"}, name  # the name of SVG, which nobody fetches


async def test_scripts_never_parse_text_as_markup() -> None:
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser"
    )
    for name, asset in assets().items():
        assert not forbidden.search(asset.data.decode()), name


async def test_the_browser_is_told_to_run_only_these_files(client: httpx.AsyncClient) -> None:
    for path in paths():
        headers = (await client.get(path)).headers
        policy = headers["content-security-policy"].split("; ")
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "connect-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


async def test_markup_holds_no_script_and_no_style(client: httpx.AsyncClient) -> None:
    markup = (await client.get("/")).text
    assert re.findall(r"<script[^>]*>", markup) == ['<script type="module" src="ui/app.js">']
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", markup)


async def test_a_file_that_did_not_change_is_not_sent_again(client: httpx.AsyncClient) -> None:
    first = await client.get("/ui/app.js")
    again = await client.get("/ui/app.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = await client.get("/ui/app.js", headers={"if-none-match": '"other"'})
    assert other.status_code == 200


@pytest.mark.parametrize(
    "name", ["index.html", "nothing.js", "__init__.py", "..%2f__init__.py", "%2e%2e/settings.py"]
)
async def test_other_names_are_a_404(client: httpx.AsyncClient, name: str) -> None:
    response = await client.get(f"/ui/{name}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "unknown_url"


async def test_the_page_needs_no_key_and_what_it_shows_does(make_client: MakeClient) -> None:
    client = await make_client(api_keys=("secret",))
    for path in paths():
        assert (await client.get(path)).status_code == 200
    for path in ("/v1/models", "/windlass/view"):
        assert (await client.get(path)).status_code == 401


async def test_the_page_can_be_turned_off(make_client: MakeClient) -> None:
    client = await make_client(ui=False)
    assert (await client.get("/")).status_code == 404
    assert (await client.get("/ui/app.js")).status_code == 404
    with_key = await make_client(ui=False, api_keys=("secret",))
    assert (await with_key.get("/")).status_code == 401
