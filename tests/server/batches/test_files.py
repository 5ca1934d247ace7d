"""`/v1/files`: uploads, their limits, whose they are, how long they stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
from batch_lines import code_of
from openai.types import FileDeleted, FileObject
from published_schema import check

if TYPE_CHECKING:
    from tests.server.batches.conftest import Desk, MakeDesk
    from tests.server.conftest import MakeClient

pytestmark = pytest.mark.anyio


async def test_a_file_is_kept_described_downloaded_and_deleted(desk: Desk) -> None:
    content = bytes(range(256)) * 1000
    file = check((await desk.upload(content)).content, FileObject)
    assert (file.bytes, file.filename, file.purpose) == (len(content), "in.jsonl", "batch")
    assert (file.created_at, file.expires_at) == (desk.now, desk.now + 30 * 24 * 3600)
    assert check((await desk.request("GET", f"/v1/files/{file.id}")).content, FileObject) == file
    downloaded = await desk.request("GET", f"/v1/files/{file.id}/content")
    assert downloaded.content == content
    assert downloaded.headers["content-type"] == "application/octet-stream"
    gone = await desk.request("DELETE", f"/v1/files/{file.id}")
    assert check(gone.content, FileDeleted).deleted
    for path in (f"/v1/files/{file.id}", f"/v1/files/{file.id}/content"):
        assert code_of(await desk.request("GET", path)) == (404, "file_not_found")
    assert code_of(await desk.request("DELETE", f"/v1/files/{file.id}")) == (404, "file_not_found")


async def test_files_are_listed_page_by_page(desk: Desk) -> None:
    ids = [check((await desk.upload(b"x")).content, FileObject).id for _ in range(5)]

    async def listed(query: str) -> tuple[list[str], bool]:
        page = (await desk.request("GET", f"/v1/files{query}")).json()
        found = [check(file, FileObject).id for file in page["data"]]
        assert (page["object"], page["first_id"]) == ("list", found[0] if found else "")
        return found, page["has_more"]

    assert await listed("") == (ids[::-1], False)
    assert await listed("?order=asc&limit=2") == (ids[:2], True)
    assert await listed(f"?order=asc&limit=3&after={ids[1]}") == (ids[2:], False)
    assert await listed(f"?limit=1&after={ids[1]}") == (ids[:1], False)
    assert await listed("?purpose=batch_output") == ([], False)
    assert await listed("?purpose=vision") == ([], False)
    assert await listed("?purpose=batch&limit=10000") == (ids[::-1], False)


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "order=up", "after=file-x"])
async def test_a_wrong_query_is_refused(desk: Desk, query: str) -> None:
    response = await desk.request("GET", f"/v1/files?{query}")
    assert code_of(response) == (400, "invalid_value")
    assert response.json()["error"]["param"] == query.partition("=")[0]


async def test_a_key_does_not_see_the_files_of_another(make_desk: MakeDesk) -> None:
    desk = await make_desk(server={"api_keys": ("one", "two")})
    desk.use_key("one")
    file = check((await desk.upload(b"x")).content, FileObject)
    desk.use_key("two")
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        response = await desk.request(method, f"/v1/files/{file.id}{path}")
        assert code_of(response) == (404, "file_not_found")
    assert (await desk.request("GET", "/v1/files")).json()["data"] == []
    assert code_of(await desk.create(file.id)) == (400, "file_not_found")
    assert code_of(await desk.request("GET", f"/v1/files?after={file.id}"))[0] == 400
    desk.use_key("one")
    assert (await desk.request("GET", f"/v1/files/{file.id}")).status_code == 200


@pytest.mark.parametrize(
    ("files", "data", "status", "param"),
    [
        ({"file": ("a", b"x")}, {}, 400, "purpose"),
        ({"file": ("a", b"x")}, {"purpose": "vision"}, 400, "purpose"),
        ({"other": ("a", b"x")}, {"purpose": "batch"}, 400, "file"),
        ([("file", ("a", b"x")), ("file", ("b", b"y"))], {"purpose": "batch"}, 400, "file"),
        ({"x": (None, b"no file")}, {"purpose": "batch"}, 400, "file"),
        ({"file": ("a", b"x")}, {"purpose": "x" * 1025}, 400, "purpose"),
        ({"file": ("a", b"x")}, {f"field{n}": "x" for n in range(17)}, 400, None),
    ],
)
async def test_a_wrong_form_is_refused_and_nothing_is_kept(
    desk: Desk, files: Any, data: dict[str, str], status: int, param: str | None
) -> None:
    response = await desk.request("POST", "/v1/files", files=files, data=data)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)
    assert not list((desk.batches.files.new_path()).parent.iterdir())


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"", 415),
        ("multipart/form-data; boundary=x", b"nothing of the kind", 400),
        ("multipart/form-data; boundary=x", b"", 400),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\ncut off',
            400,
        ),
        ("multipart/form-data; boundary=" + "x" * 1000, b"", 400),
    ],
)
async def test_what_is_no_form_is_refused(
    desk: Desk, content_type: str, body: bytes, status: int
) -> None:
    headers = {"content-type": content_type}
    response = await desk.request("POST", "/v1/files", content=body, headers=headers)
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert not list((desk.batches.files.new_path()).parent.iterdir())


@pytest.mark.parametrize(
    ("filename", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\batch\\in.jsonl", "in.jsonl"),
        ("ü 猫.jsonl", "ü 猫.jsonl"),
        ("x" * 300, "x" * 255),
        ("dir/", "upload"),
    ],
)
async def test_a_file_name_is_a_label_only(desk: Desk, filename: str, kept: str) -> None:
    response = await desk.request(
        "POST", "/v1/files", files={"file": (filename, b"x")}, data={"purpose": "batch"}
    )
    file = check(response.content, FileObject)
    assert file.filename == kept
    content = await desk.request("GET", f"/v1/files/{file.id}/content")
    assert (content.status_code, content.content) == (200, b"x")


@pytest.mark.parametrize(
    ("anchor", "seconds", "param"),
    [
        ("created_at", "3600", None),
        ("created_at", "2592000", None),
        ("created_at", "3599", "expires_after.seconds"),
        ("created_at", "2592001", "expires_after.seconds"),
        ("created_at", "soon", "expires_after.seconds"),
        ("created_at", None, "expires_after.seconds"),
        ("last_active_at", "3600", "expires_after.anchor"),
        (None, "3600", "expires_after.anchor"),
    ],
)
async def test_a_file_may_say_how_long_it_stays(
    desk: Desk, anchor: str | None, seconds: str | None, param: str | None
) -> None:
    given = {"expires_after[anchor]": anchor, "expires_after[seconds]": seconds}
    response = await desk.upload(b"x", **{k: v for k, v in given.items() if v is not None})
    if param is None:
        assert check(response.content, FileObject).expires_at == desk.now + int(seconds or 0)
    else:
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_an_expired_file_is_gone_at_once_and_its_bytes_soon(make_desk: MakeDesk) -> None:
    desk = await make_desk(file_ttl=100)
    file = check((await desk.upload(b"x")).content, FileObject)
    desk.now += 99
    assert (await desk.request("GET", f"/v1/files/{file.id}")).status_code == 200
    desk.now += 1
    assert code_of(await desk.request("GET", f"/v1/files/{file.id}")) == (404, "file_not_found")
    assert desk.batches.files.path(file.id).exists()
    await desk.batches.files.delete_expired()
    assert not desk.batches.files.path(file.id).exists()


async def test_a_file_is_accepted_at_the_limit_and_refused_above(make_desk: MakeDesk) -> None:
    """The limit of other bodies does not hold for uploads."""
    desk = await make_desk(max_file_bytes=200_000, server={"max_body_bytes": 1000})
    assert (await desk.upload(b"x" * 200_000)).status_code == 200
    assert code_of(await desk.upload(b"x" * 200_001)) == (413, "file_too_large")
    far_above = await desk.upload(b"x" * 300_000)
    assert code_of(far_above) == (413, "request_too_large")
    other = await desk.request("POST", "/v1/batches", json={"input_file_id": "x" * 1000})
    assert code_of(other) == (413, "request_too_large")


async def test_the_number_of_files_is_bounded(make_desk: MakeDesk) -> None:
    desk = await make_desk(max_files=2)
    first = check((await desk.upload(b"x")).content, FileObject)
    assert (await desk.upload(b"x")).status_code == 200
    assert code_of(await desk.upload(b"x")) == (400, "storage_limit_exceeded")
    await desk.request("DELETE", f"/v1/files/{first.id}")
    assert (await desk.upload(b"x")).status_code == 200


async def test_the_bytes_of_all_files_are_bounded(make_desk: MakeDesk) -> None:
    desk = await make_desk(max_stored_bytes=1000)
    assert (await desk.upload(b"x" * 400)).status_code == 200
    assert code_of(await desk.upload(b"x" * 601)) == (400, "storage_limit_exceeded")
    assert (await desk.upload(b"x" * 600)).status_code == 200


async def test_uploads_that_run_count_before_they_end(make_desk: MakeDesk) -> None:
    desk = await make_desk(max_stored_bytes=1000)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        yield b"x" * 600
        begun.set()
        await go_on.wait()
        yield b"\r\n--x--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=x"}
    first = asyncio.create_task(desk.request("POST", "/v1/files", content=slow(), headers=headers))
    await begun.wait()
    assert code_of(await desk.upload(b"x" * 401)) == (400, "storage_limit_exceeded")
    assert (await desk.upload(b"x" * 400)).status_code == 200
    go_on.set()
    assert (await first).status_code == 200


async def test_what_a_killed_server_left_behind_is_deleted(desk: Desk) -> None:
    kept = check((await desk.upload(b"x")).content, FileObject)
    part = desk.batches.files.new_path()
    part.write_bytes(b"half of")
    desk.close()
    desk.open()
    assert not part.exists()
    assert (await desk.request("GET", f"/v1/files/{kept.id}/content")).content == b"x"


async def test_without_a_folder_the_routes_name_the_flag(make_client: MakeClient) -> None:
    client = await make_client()
    for method, path in (
        ("GET", "/v1/files"),
        ("POST", "/v1/files"),
        ("GET", "/v1/files/x"),
        ("GET", "/v1/files/x/content"),
        ("DELETE", "/v1/files/x"),
        ("GET", "/v1/batches"),
        ("POST", "/v1/batches"),
        ("GET", "/v1/batches/x"),
        ("POST", "/v1/batches/x/cancel"),
    ):
        response = await client.request(method, path)
        assert code_of(response) == (404, "unsupported_endpoint")
        assert "--batch-dir" in response.json()["error"]["message"]
