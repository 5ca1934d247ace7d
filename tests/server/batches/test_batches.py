"""`/v1/batches` and the worker behind it, with an engine that is scripted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from batch_lines import CHAT, code_of, line
from openai.types import Batch
from openai.types.chat import ChatCompletion
from openai.types.completion import Completion
from openai.types.responses import Response
from published_schema import check

from windlass_server.batches.validation import MAX_ERRORS

if TYPE_CHECKING:
    from tests.server.batches.conftest import Desk, MakeDesk
    from tests.server.conftest import FakeEngine

pytestmark = pytest.mark.anyio


async def test_a_batch_runs_and_its_answers_stand_in_the_order_of_its_input(desk: Desk) -> None:
    created = await desk.batch(*(line(str(n)) for n in range(20)), metadata={"job": "nightly"})
    assert created.status == "validating"
    assert created.expires_at == desk.now + 24 * 3600
    async with desk.working():
        batch = await desk.wait(created.id)
    assert batch.status == "completed"
    assert batch.metadata == {"job": "nightly"}
    assert batch.model == "fake-model"
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 20, "completed": 20, "failed": 0}
    for moment in (batch.in_progress_at, batch.finalizing_at, batch.completed_at):
        assert moment == desk.now
    assert batch.error_file_id is None
    results = await desk.results(batch.output_file_id)
    assert [result["custom_id"] for result in results] == [str(n) for n in range(20)]
    assert len({result["id"] for result in results}) == 20
    tokens = 0
    for result in results:
        assert set(result) == {"id", "custom_id", "response", "error"}
        assert result["error"] is None
        assert set(result["response"]) == {"status_code", "request_id", "body"}
        assert result["response"]["status_code"] == 200
        answer = check(result["response"]["body"], ChatCompletion)
        assert answer.usage is not None
        tokens += answer.usage.total_tokens
    assert batch.usage is not None
    assert batch.usage.total_tokens == tokens > batch.usage.output_tokens > 0


async def test_what_is_refused_stands_in_the_error_file_with_the_route_s_own_words(
    desk: Desk,
) -> None:
    lines = [line("good"), line("bad", temperature=9), line("streams", stream=True)]
    created = await desk.batch(*lines)
    online = await desk.request("POST", CHAT, json=lines[1]["body"])
    async with desk.working():
        batch = await desk.wait(created.id)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 3, "completed": 1, "failed": 2}
    bad, streams = await desk.results(batch.error_file_id)
    assert bad["response"]["status_code"] == online.status_code == 400
    assert bad["response"]["body"] == online.json()
    assert streams["response"]["body"]["error"]["param"] == "stream"
    (good,) = await desk.results(batch.output_file_id)
    assert good["custom_id"] == "good"


async def test_a_batch_of_which_nothing_succeeds_has_no_output_file(desk: Desk) -> None:
    created = await desk.batch(line("bad", temperature=9))
    async with desk.working():
        batch = await desk.wait(created.id)
    assert (batch.status, batch.output_file_id) == ("completed", None)


async def test_completions_and_responses_run_too_and_no_response_is_kept(desk: Desk) -> None:
    text = await desk.file(line("1", "/v1/completions", prompt="Hi"))
    lines: list[dict[str, Any]] = [{}, {"store": True}, {"background": True}, {"store": False}]
    said = [line(str(n), "/v1/responses", input="Hi", **body) for n, body in enumerate(lines)]
    responses = await desk.file(*said)
    first = check((await desk.create(text.id, "/v1/completions")).content, Batch)
    second = check((await desk.create(responses.id, "/v1/responses")).content, Batch)
    async with desk.working():
        done = await desk.wait(first.id)
        (result,) = await desk.results(done.output_file_id)
        check(result["response"]["body"], Completion)
        done = await desk.wait(second.id)
    good = await desk.results(done.output_file_id)
    assert [result["custom_id"] for result in good] == ["0", "3"]
    response = check(good[0]["response"]["body"], Response)
    assert (await desk.request("GET", f"/v1/responses/{response.id}")).status_code == 404
    assert done.usage is not None
    assert done.usage.output_tokens > 0
    bad = await desk.results(done.error_file_id)
    assert [r["response"]["body"]["error"]["param"] for r in bad] == ["store", "background"]


@pytest.mark.parametrize(
    ("lines", "faults"),
    [
        ([], [("empty_file", None, None)]),
        ([{}], [("missing_required_parameter", 1, "custom_id")]),
        (
            [line("a"), line("b"), line("a"), {**line("c"), "method": "GET"}],
            [("duplicate_custom_id", 3, "custom_id"), ("invalid_method", 4, "method")],
        ),
        ([line("a"), line("b", "/v1/completions", prompt="x")], [("invalid_url", 2, "url")]),
        ([line("a"), line("b", model="other")], [("mismatched_model", 2, "body.model")]),
        ([line("a", model="other")], [("model_not_found", None, "body.model")]),
        ([line("a", model=None)], [("missing_required_parameter", 1, "body.model")]),
    ],
)
async def test_a_wrong_input_fails_the_batch_before_any_line_runs(
    desk: Desk,
    engine: FakeEngine,
    lines: list[dict[str, Any]],
    faults: list[tuple[str, int | None, str | None]],
) -> None:
    created = await desk.batch(*lines)
    async with desk.working():
        batch = await desk.wait(created.id)
    assert (batch.status, batch.failed_at) == ("failed", desk.now)
    assert batch.errors is not None
    assert batch.errors.object == "list"
    assert batch.errors.data is not None
    assert [(e.code, e.line, e.param) for e in batch.errors.data] == faults
    assert all(error.message for error in batch.errors.data)
    assert not engine.submitted
    assert code_of(await desk.request("POST", f"/v1/batches/{batch.id}/cancel")) == (
        400,
        "invalid_status",
    )


async def test_a_line_that_is_no_json_is_told_with_its_number(desk: Desk) -> None:
    file = (await desk.upload(b"\n{nothing\n")).json()
    created = check((await desk.create(file["id"])).content, Batch)
    async with desk.working():
        batch = await desk.wait(created.id)
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(e.code, e.line) for e in batch.errors.data] == [("invalid_json_line", 2)]


async def test_only_the_first_faults_are_told(desk: Desk) -> None:
    file = (await desk.upload(b"nothing\n" * (MAX_ERRORS + 1))).json()
    created = check((await desk.create(file["id"])).content, Batch)
    async with desk.working():
        batch = await desk.wait(created.id)
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [error.line for error in batch.errors.data] == list(range(1, MAX_ERRORS + 1))


async def test_the_lines_of_a_batch_are_bounded(make_desk: MakeDesk) -> None:
    desk = await make_desk(max_lines=3)
    good = await desk.batch(*(line(str(n)) for n in range(3)))
    bad = await desk.batch(*(line(str(n)) for n in range(4)))
    async with desk.working():
        assert (await desk.wait(good.id)).status == "completed"
        failed = await desk.wait(bad.id)
    assert failed.errors is not None
    assert failed.errors.data is not None
    assert [error.code for error in failed.errors.data] == ["too_many_requests"]


async def test_a_line_is_bounded_as_any_body_is(make_desk: MakeDesk) -> None:
    desk = await make_desk(server={"max_body_bytes": 1000})
    empty = len(json.dumps(line("a", user="")["body"]))
    lines = [line("a", user="x" * (1000 - empty)), line("b", user="x" * (1001 - empty))]
    created = await desk.batch(*lines)
    async with desk.working():
        batch = await desk.wait(created.id)
    assert [r["custom_id"] for r in await desk.results(batch.output_file_id)] == ["a"]
    (refused,) = await desk.results(batch.error_file_id)
    assert refused["response"]["status_code"] == 413


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"completion_window": "1h"}, "completion_window"),
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"input_file_id": None}, "input_file_id"),
        ({"input_file_id": "file-unknown"}, "input_file_id"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"metadata": {"k": "x" * 513}}, "metadata.k"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, None),
        ({"output_expires_after": {"anchor": "x", "seconds": 3600}}, None),
    ],
)
async def test_a_wrong_batch_is_refused(
    desk: Desk, fields: dict[str, Any], param: str | None
) -> None:
    file = await desk.file(line("a"))
    response = await desk.create(file.id, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(param or "output_expires_after")


async def test_the_longest_metadata_is_accepted_and_outputs_may_expire_early(desk: Desk) -> None:
    metadata = {str(n) + "k" * 62: "x" * 512 for n in range(16)}
    expiry = {"anchor": "created_at", "seconds": 3600}
    created = await desk.batch(line("a"), metadata=metadata, output_expires_after=expiry)
    assert created.metadata == metadata
    async with desk.working():
        batch = await desk.wait(created.id)
    output = (await desk.request("GET", f"/v1/files/{batch.output_file_id}")).json()
    assert output["expires_at"] == desk.now + 3600
    assert output["purpose"] == "batch_output"
    assert output["filename"] == f"{batch.id}_output.jsonl"
    refused = await desk.create(output["id"])
    assert code_of(refused) == (400, "file_not_found")


async def test_batches_are_listed_newest_first(desk: Desk) -> None:
    ids = [(await desk.batch(line("a"))).id for _ in range(3)]
    page = (await desk.request("GET", "/v1/batches?limit=2")).json()
    assert [batch["id"] for batch in page["data"]] == ids[:0:-1]
    assert (page["object"], page["has_more"]) == ("list", True)
    assert (page["first_id"], page["last_id"]) == (ids[2], ids[1])
    rest = (await desk.request("GET", f"/v1/batches?after={page['last_id']}")).json()
    assert ([batch["id"] for batch in rest["data"]], rest["has_more"]) == (ids[:1], False)
    for limit, status in ((100, 200), (101, 400), (0, 400)):
        response = await desk.request("GET", f"/v1/batches?limit={limit}")
        assert response.status_code == status


async def test_a_key_does_not_see_the_batches_of_another(
    make_desk: MakeDesk, engine: FakeEngine
) -> None:
    desk = await make_desk(server={"api_keys": ("one", "two")})
    desk.use_key("one")
    created = await desk.batch(line("a"))
    desk.use_key("two")
    for method, path in (("GET", ""), ("POST", "/cancel")):
        response = await desk.request(method, f"/v1/batches/{created.id}{path}")
        assert code_of(response) == (404, "batch_not_found")
    assert (await desk.request("GET", "/v1/batches")).json()["data"] == []
    desk.use_key("one")
    async with desk.working():
        batch = await desk.wait(created.id)
    assert batch.output_file_id is not None
    assert len(await desk.results(batch.output_file_id)) == 1
    desk.use_key("two")
    content = await desk.request("GET", f"/v1/files/{batch.output_file_id}/content")
    assert content.status_code == 404


async def test_the_batches_that_wait_are_bounded(make_desk: MakeDesk) -> None:
    desk = await make_desk(max_batches=1)
    created = await desk.batch(line("a"))
    file = await desk.file(line("a"))
    assert code_of(await desk.create(file.id)) == (429, "batch_limit_exceeded")
    async with desk.working():
        await desk.wait(created.id)
    assert (await desk.create(file.id)).status_code == 200
