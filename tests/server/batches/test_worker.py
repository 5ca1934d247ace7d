"""The worker behind `/v1/batches`: when it runs lines, for whom, and what outlives it."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from typing import TYPE_CHECKING

import pytest
from batch_lines import CHAT, code_of, line
from openai.types import Batch
from published_schema import check

from windlass.errors import EngineDeadError, QueueFullError
from windlass_server.access.fair_queue import capacity_of
from windlass_server.access.keys import load_keys
from windlass_server.access.settings import AccessSettings, KeyLimits
from windlass_server.batches.call import MAX_ATTEMPTS, TokenCounts
from windlass_server.batches.output import write_outputs
from windlass_server.models.pool import ModelPool
from windlass_server.models.served_model import ServedModel
from windlass_server.models.settings import ModelSettings

if TYPE_CHECKING:
    from tests.server.batches.conftest import Desk, MakeDesk
    from tests.server.conftest import FakeEngine

pytestmark = pytest.mark.anyio


async def test_at_most_so_many_lines_run_at_a_time(make_desk: MakeDesk, engine: FakeEngine) -> None:
    desk = await make_desk(concurrency=2)
    engine.gate.clear()
    created = await desk.batch(*(line(str(n)) for n in range(6)))
    async with desk.working():
        await desk.wait(created.id, lambda batch: batch.status == "in_progress")
        for _ in range(5):
            await asyncio.sleep(0.01)
        assert len(engine.running) == 2
        engine.gate.set()
        assert (await desk.wait(created.id)).status == "completed"


async def test_lines_wait_while_online_requests_wait(desk: Desk, engine: FakeEngine) -> None:
    engine.stats().num_waiting = 1
    created = await desk.batch(line("a"))
    async with desk.working():
        await desk.wait(created.id, lambda batch: batch.status == "in_progress")
        for _ in range(10):
            await asyncio.sleep(0.02)
        assert not engine.submitted
        engine.stats().num_waiting = 0
        assert (await desk.wait(created.id)).status == "completed"


async def test_lines_wait_while_calls_wait_for_their_turn(
    make_desk: MakeDesk, engine: FakeEngine
) -> None:
    """They wait in front of the engine where there are several keys."""
    desk = await make_desk(server={"api_keys": ("one", "two")})
    desk.use_key("one")
    created = await desk.batch(line("a"))
    engine.gate.clear()
    room = capacity_of(engine.info.max_num_seqs, desk.state.settings.access.max_queued_requests)
    body = line("online")["body"]
    calls = (desk.request("POST", CHAT, json=body) for _ in range(room + 1))
    online = [asyncio.create_task(call) for call in calls]
    async with asyncio.timeout(10):
        while len(engine.running) < room:
            await asyncio.sleep(0.01)
    async with desk.working():
        await desk.wait(created.id, lambda batch: batch.status == "in_progress")
        for _ in range(10):
            await asyncio.sleep(0.02)
        queue = desk.state.access.queue_of(desk.state.models.default, engine)
        assert queue.waiting == 1  # the last of the online calls
        engine.gate.set()
        assert (await desk.wait(created.id)).status == "completed"
    assert {response.status_code for response in await asyncio.gather(*online)} == {200}
    assert len(engine.submitted) == room + 2


async def test_limits_of_a_key_do_not_hold_for_its_batches(make_desk: MakeDesk) -> None:
    limits = KeyLimits(requests_per_minute=1, max_concurrent_requests=1)
    desk = await make_desk(server={"api_keys": ("one",), "limits": limits})
    desk.use_key("one")
    created = await desk.batch(*(line(str(n)) for n in range(6)))
    async with desk.working():
        batch = await desk.wait(created.id)
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 6
    statuses = [(await desk.request("POST", CHAT, json=line("")["body"])).status_code for _ in "ab"]
    assert statuses == [200, 429]


async def test_a_line_runs_as_the_owner_of_its_batch(make_desk: MakeDesk) -> None:
    """It goes on from a response of its own key, and from none of another's."""
    desk = await make_desk(server={"api_keys": ("one", "two")})
    desk.use_key("one")
    body = {"model": "fake-model", "input": "Hi"}
    first = (await desk.request("POST", "/v1/responses", json=body)).json()
    lines = [line("a", "/v1/responses", input="Go on", previous_response_id=first["id"])]
    mine = await desk.batch(*lines, endpoint="/v1/responses")
    desk.use_key("two")
    other = await desk.batch(*lines, endpoint="/v1/responses")
    async with desk.working():
        done = await desk.wait(other.id)
        (result,) = await desk.results(done.error_file_id)
        assert result["response"]["body"]["error"]["code"] == "previous_response_not_found"
        desk.use_key("one")
        done = await desk.wait(mine.id)
    assert done.output_file_id is not None
    assert done.error_file_id is None


async def test_a_batch_goes_on_when_its_key_is_gone(make_desk: MakeDesk) -> None:
    desk = await make_desk(server={"api_keys": ("one", "two")})
    desk.use_key("one")
    created = await desk.batch(line("a"))
    keys = desk.state.access.keys
    desk.state.access.keys = load_keys(AccessSettings(api_keys=("two",)))
    async with desk.working():
        async with asyncio.timeout(10):
            while await desk.batches.store.unfinished():
                await asyncio.sleep(0.01)
    assert (await desk.request("GET", f"/v1/batches/{created.id}")).status_code == 401
    desk.state.access.keys = keys
    assert (await desk.look(created.id)).status == "completed"


async def test_stored_lines_are_counted_for_operators(desk: Desk) -> None:
    created = await desk.batch(line("a"), line("b"), line("bad", temperature=9))
    async with desk.working():
        await desk.wait(created.id)
    text = (await desk.request("GET", "/metrics")).text
    counted = re.findall(r'^windlass:batch_lines_total\{.*result="(\w+)"\} (\S+)$', text, re.M)
    assert dict(counted) == {"completed": "2.0", "failed": "1.0"}


async def test_batches_take_turns(make_desk: MakeDesk, engine: FakeEngine) -> None:
    """A short batch does not wait for the end of a long one."""
    desk = await make_desk(concurrency=1)
    long = await desk.batch(*(line(str(n)) for n in range(60)))
    short = await desk.batch(line("a"), line("b"))
    async with desk.working():
        await desk.wait(short.id)
        assert (await desk.look(long.id)).status == "in_progress"
        assert (await desk.wait(long.id)).status == "completed"


@pytest.mark.parametrize(("asked", "given"), [(None, 1_000_000), (5, 1_000_000), (2**40, 2**40)])
async def test_lines_are_less_urgent_than_online_requests(
    make_desk: MakeDesk, engine: FakeEngine, asked: int | None, given: int
) -> None:
    desk = await make_desk(server={"priority_scheduling": True})
    created = await desk.batch(line("a", **({} if asked is None else {"priority": asked})))
    async with desk.working():
        assert (await desk.wait(created.id)).status == "completed"
    assert [request.priority for p in engine.submitted for request in p.requests] == [given]


async def test_a_cancelled_batch_keeps_what_was_done(
    make_desk: MakeDesk, engine: FakeEngine
) -> None:
    desk = await make_desk(concurrency=1)
    created = await desk.batch(*(line(str(n)) for n in range(50)))
    async with desk.working():
        await desk.wait(created.id, lambda b: bool(b.request_counts and b.request_counts.completed))
        engine.gate.clear()
        answer = await desk.request("POST", f"/v1/batches/{created.id}/cancel")
        cancelling = check(answer.content, Batch)
        assert (cancelling.status, cancelling.cancelling_at) == ("cancelling", desk.now)
        batch = await desk.wait(created.id)
    assert (batch.status, batch.cancelled_at) == ("cancelled", desk.now)
    assert not engine.running
    assert batch.request_counts is not None
    done = batch.request_counts.completed
    assert 0 < done < 50
    results = await desk.results(batch.output_file_id)
    assert [result["custom_id"] for result in results] == [str(n) for n in range(done)]


async def test_a_batch_can_be_cancelled_before_it_begins(desk: Desk, engine: FakeEngine) -> None:
    created = await desk.batch(line("a"))
    for _ in range(2):
        await desk.request("POST", f"/v1/batches/{created.id}/cancel")
    async with desk.working():
        batch = await desk.wait(created.id)
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("cancelled", None, None)
    assert not engine.submitted


async def test_an_expired_batch_says_which_lines_were_not_run(
    make_desk: MakeDesk, engine: FakeEngine
) -> None:
    desk = await make_desk(concurrency=1)
    created = await desk.batch(*(line(str(n)) for n in range(50)))
    async with desk.working():
        await desk.wait(created.id, lambda b: bool(b.request_counts and b.request_counts.completed))
        engine.gate.clear()
    desk.now += 24 * 3600 - 0.2
    async with desk.working():
        batch = await desk.wait(created.id)
    assert batch.status == "expired"
    assert batch.expired_at is not None
    done = await desk.results(batch.output_file_id)
    not_run = await desk.results(batch.error_file_id)
    assert done
    assert not_run
    assert [r["custom_id"] for r in (*done, *not_run)] == [str(n) for n in range(50)]
    assert all(r["response"] is None for r in not_run)
    assert {r["error"]["code"] for r in not_run} == {"batch_expired"}


async def test_a_worker_goes_on_where_another_stopped(
    make_desk: MakeDesk, engine: FakeEngine
) -> None:
    desk = await make_desk(concurrency=1)
    created = await desk.batch(*(line(str(n)) for n in range(30)))
    async with desk.working():
        await desk.wait(created.id, lambda b: bool(b.request_counts and b.request_counts.completed))
    halfway = await desk.look(created.id)
    assert halfway.request_counts is not None
    assert halfway.status == "in_progress"
    engine.submitted.clear()
    async with desk.working():
        batch = await desk.wait(created.id)
    assert len(engine.submitted) == 30 - halfway.request_counts.completed
    results = await desk.results(batch.output_file_id)
    assert [result["custom_id"] for result in results] == [str(n) for n in range(30)]


async def test_a_line_that_is_refused_for_now_is_run_later(desk: Desk, engine: FakeEngine) -> None:
    engine.refusal = QueueFullError("The queue is full.", retry_after=0.01)
    created = await desk.batch(line("a"))
    async with desk.working():
        await desk.wait(created.id, lambda batch: batch.status == "in_progress")
        await asyncio.sleep(0.1)
        engine.refusal = None
        batch = await desk.wait(created.id)
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 1


async def test_a_line_that_the_engine_dies_of_is_given_up(desk: Desk, engine: FakeEngine) -> None:
    created = await desk.batch(line("a"))
    engine.gate.clear()
    async with desk.working():
        for _ in range(MAX_ATTEMPTS):
            async with asyncio.timeout(10):
                while not engine.running:
                    await asyncio.sleep(0.01)
            for request_id in list(engine.running):
                engine.fail(request_id, EngineDeadError("it died", retry_after=0.01))
        batch = await desk.wait(created.id)
    assert len(engine.submitted) == MAX_ATTEMPTS
    (result,) = await desk.results(batch.error_file_id)
    assert result["response"]["body"]["error"]["code"] == "engine_failed"


async def test_a_file_that_a_batch_reads_is_not_deleted(desk: Desk) -> None:
    created = await desk.batch(line("a"))
    path = f"/v1/files/{created.input_file_id}"
    assert code_of(await desk.request("DELETE", path)) == (400, "file_in_use")
    async with desk.working():
        await desk.wait(created.id)
    assert (await desk.request("DELETE", path)).status_code == 200


async def test_an_input_that_cannot_be_read_fails_the_batch_only(desk: Desk) -> None:
    broken, good = await desk.batch(line("a")), await desk.batch(line("a"))
    desk.batches.files.path(broken.input_file_id).unlink()
    async with desk.working():
        failed = await desk.wait(broken.id)
        assert (await desk.wait(good.id)).status == "completed"
    assert failed.errors is not None
    assert failed.errors.data is not None
    assert [error.code for error in failed.errors.data] == ["input_file_missing"]


async def test_an_input_that_vanishes_leaves_what_was_done(
    make_desk: MakeDesk, engine: FakeEngine
) -> None:
    desk = await make_desk(concurrency=1)
    created = await desk.batch(*(line(str(n)) for n in range(30)))
    async with desk.working():
        await desk.wait(created.id, lambda b: bool(b.request_counts and b.request_counts.completed))
    desk.batches.files.path(created.input_file_id).unlink()
    async with desk.working():
        batch = await desk.wait(created.id)
    assert batch.status == "failed"
    assert batch.request_counts is not None
    assert len(await desk.results(batch.output_file_id)) == batch.request_counts.completed > 0


async def test_a_full_disk_stops_batches_until_there_is_room(desk: Desk) -> None:
    created = await desk.batch(*(line(str(n)) for n in range(40)))

    async def bound(pages: int) -> None:
        """Let the database have so many pages more."""

        def work(connection: sqlite3.Connection) -> None:
            (count,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {count + pages}").fetchall()

        await desk.batches.database.run(work)

    await bound(3)
    async with desk.working():
        await desk.wait(created.id, lambda b: bool(b.request_counts and b.request_counts.completed))
        await asyncio.sleep(0.3)
        halfway = await desk.look(created.id)
        await bound(10_000)
        batch = await desk.wait(created.id)
    assert halfway.status == "in_progress"
    results = await desk.results(batch.output_file_id)
    assert [result["custom_id"] for result in results] == [str(n) for n in range(40)]


async def test_outputs_that_were_cut_short_are_written_anew(desk: Desk) -> None:
    """As by a server that is killed after it wrote them, and before it said so."""
    created = await desk.batch(*(line(str(n)) for n in range(3)))
    answer = json.loads('{"status_code": 200, "request_id": "r", "body": {}}')
    for number in (1, 2, 3):
        data = json.dumps({"id": "x", "custom_id": str(number), "response": answer, "error": None})
        stored = (data + "\n").encode()
        await desk.batches.store.add_result(created.id, number, True, stored, TokenCounts())
    await desk.batches.store.begin(created.id, 3, "fake-model")
    record = await desk.batches.store.finalize(created.id)
    files = desk.batches.files
    lost = write_outputs(desk.batches.database, files, record, 10_000, expired=False)
    assert set(lost) == {"output"}
    desk.close()
    desk.open()
    assert not desk.batches.files.path(lost["output"].id).exists()
    async with desk.working():
        batch = await desk.wait(created.id)
    assert batch.status == "completed"
    results = await desk.results(batch.output_file_id)
    assert [result["custom_id"] for result in results] == ["1", "2", "3"]
    listed = (await desk.request("GET", "/v1/files?purpose=batch_output")).json()
    assert [file["id"] for file in listed["data"]] == [batch.output_file_id]


async def test_a_result_is_counted_once(desk: Desk) -> None:
    created = await desk.batch(line("a"))
    for data in (b"first", b"second"):
        await desk.batches.store.add_result(created.id, 1, True, data, TokenCounts(output_tokens=7))
    batch = await desk.look(created.id)
    assert batch.request_counts is not None
    assert batch.usage is not None
    assert (batch.request_counts.completed, batch.usage.output_tokens) == (1, 7)


async def test_ended_batches_are_forgotten_in_time(make_desk: MakeDesk) -> None:
    desk = await make_desk(file_ttl=100_000)
    created = await desk.batch(line("a"))
    async with desk.working():
        await desk.wait(created.id)
    desk.now += 24 * 3600 + 100_000
    await desk.batches.store.forget_old()
    assert (await desk.request("GET", f"/v1/batches/{created.id}")).status_code == 200
    desk.now += 1
    await desk.batches.store.forget_old()
    assert (await desk.request("GET", f"/v1/batches/{created.id}")).status_code == 404


async def test_a_model_that_sleeps_does_not_hold_the_others_up(
    make_desk: MakeDesk, engine: FakeEngine
) -> None:
    desk = await make_desk(concurrency=1)
    model = desk.state.models.default
    sleeper = ServedModel(ModelSettings(names=("sleeper",)), template_timeout=1.0)
    sleeper.asleep = True
    desk.state.models = ModelPool((model, sleeper), desk.state.settings.swap)
    asleep = await desk.batch(line("a", model="sleeper"))
    awake = await desk.batch(line("a"))
    async with desk.working():
        await desk.wait(asleep.id, lambda batch: batch.status == "in_progress")
        assert (await desk.wait(awake.id)).status == "completed"
        assert (await desk.look(asleep.id)).status == "in_progress"


async def test_a_line_whose_model_was_put_to_sleep_gives_its_place_to_others(
    make_desk: MakeDesk, engine: FakeEngine
) -> None:
    desk = await make_desk(concurrency=1)
    model = desk.state.models.default
    sleeper = ServedModel(ModelSettings(names=("sleeper",)), template_timeout=1.0)
    desk.state.models = ModelPool((model, sleeper), desk.state.settings.swap)
    other = type(engine)(engine.tokenizer)
    other.gate.clear()
    sleeper.serve(other)
    ended = await desk.batch(line("a", model="sleeper"))
    async with desk.working():
        async with asyncio.timeout(10):
            while not other.running:
                await asyncio.sleep(0.01)
        await desk.state.models.unload(sleeper, sleep=True, abort=True)
        other.die(None)
        awake = await desk.batch(line("a"))
        assert (await desk.wait(awake.id)).status == "completed"
        assert (await desk.look(ended.id)).status == "in_progress"
        sleeper.asleep = False
        sleeper.serve(type(engine)(engine.tokenizer))
        batch = await desk.wait(ended.id)
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 1
