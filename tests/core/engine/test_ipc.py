"""Frames between a front end and its engine: typed, and harmless when they are garbage."""

from __future__ import annotations

import asyncio
import random
import stat
import tempfile
from pathlib import Path

import msgspec
import pytest
import zmq

from windlass.config import EngineConfig, ModelConfig
from windlass.engine.ipc import (
    Abort,
    AddRequests,
    ClientChannel,
    EngineChannel,
    FromEngine,
    Hello,
    LoadProgress,
    Outputs,
    Shutdown,
    SocketFolder,
    ToEngine,
    check_requests,
    from_engine_decoder,
    to_engine_decoder,
)
from windlass.engine.outputs import EngineStats, SequenceOutput
from windlass.errors import ConfigError, RequestError
from windlass.request import Logprob, Request, SamplingParams

CONFIG = EngineConfig(model=ModelConfig(model="some/model"))
REQUEST = Request(
    request_id="7",
    prompt_token_ids=[1, 2, 3],
    sampling=SamplingParams(stop=["a", "b"], logit_bias={3: -1.0}, seed=-5, max_tokens=None),
    eos_token_ids=(2,),
)
TO_ENGINE: list[ToEngine] = [
    Hello(CONFIG),
    AddRequests([REQUEST]),
    Abort(["7", "8"]),
    Shutdown(),
]
FROM_ENGINE: list[FromEngine] = [
    LoadProgress("weights", 0.5),
    Outputs(
        [SequenceOutput(request_id="7", new_token_ids=[4], logprobs=[{4: Logprob(-0.1, 1)}])],
        EngineStats(num_running=1),
    ),
]


@pytest.mark.parametrize("message", TO_ENGINE, ids=lambda m: type(m).__name__)
def test_a_message_to_the_engine_arrives_as_it_was(message: ToEngine) -> None:
    assert to_engine_decoder().decode(msgspec.msgpack.encode(message)) == message


@pytest.mark.parametrize("message", FROM_ENGINE, ids=lambda m: type(m).__name__)
def test_a_message_from_the_engine_arrives_as_it_was(message: FromEngine) -> None:
    assert from_engine_decoder().decode(msgspec.msgpack.encode(message)) == message


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\x80\x04\x95",  # how a pickle starts
        b"\xdd\xff\xff\xff\xff",  # an array of four billion entries, not there
        b"\x91" * 100_000,  # nested beyond any recursion limit
        msgspec.msgpack.encode({"type": "os.system", "command": "true"}),
        msgspec.msgpack.encode({"type": "add", "requests": [{"request_id": 1}]}),
        msgspec.msgpack.encode({"type": "hello", "config": {"model": {"model": ""}}}),
        msgspec.msgpack.encode(
            {"type": "add", "requests": [{"request_id": "1", "sampling": {"temperature": -1}}]}
        ),
    ],
)
def test_a_frame_that_is_no_message_is_dropped_and_counted(frame: bytes) -> None:
    decoder = to_engine_decoder()

    assert decoder.decode(frame) is None
    assert decoder.malformed == 1


def test_random_and_mutated_frames_never_raise() -> None:
    generator = random.Random(1)
    to_engine, from_engine = to_engine_decoder(), from_engine_decoder()
    valid = [msgspec.msgpack.encode(message) for message in [*TO_ENGINE, *FROM_ENGINE]]
    decoded = 0
    for round_number in range(20_000):
        frame = bytearray(generator.choice(valid) if round_number % 2 else generator.randbytes(40))
        for _ in range(generator.randrange(1, 4)):
            frame[generator.randrange(len(frame))] = generator.randrange(256)
        for decoder in (to_engine, from_engine):
            decoded += decoder.decode(bytes(frame)) is not None

    assert to_engine.malformed + from_engine.malformed == 40_000 - decoded
    assert to_engine.malformed > 10_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt_token_ids": [True]},
        {"prompt_token_ids": [2**70]},
        {"priority": 1.5},
        {"cache_salt": b"salt"},
        {"sampling": SamplingParams(ignore_eos="yes")},  # type: ignore[arg-type]
        {"request_id": object()},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_request_that_the_engine_would_drop_is_refused_before_it_is_sent(
    wrong: dict[str, object],
) -> None:
    check_requests([REQUEST])
    with pytest.raises(RequestError, match="wrong type"):
        check_requests([msgspec.structs.replace(REQUEST, **wrong)])


def test_the_socket_stands_in_a_private_folder_that_goes_away() -> None:
    folder = SocketFolder()
    path = Path(folder.endpoint.removeprefix("ipc://")).parent

    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    folder.remove()
    assert not path.exists()


def test_a_long_temporary_folder_gives_way_to_a_shorter_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = SocketFolder()

    assert len(folder.endpoint.removeprefix("ipc://")) < zmq.IPC_PATH_MAX_LEN
    folder.remove()
    assert list(long.iterdir()) == []


def test_no_temporary_folder_short_enough_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "IPC_PATH_MAX_LEN", 5)

    with pytest.raises(ConfigError, match="TMPDIR"):
        SocketFolder()


async def connect(received: list[FromEngine]) -> tuple[ClientChannel, EngineChannel]:
    """Both ends of a link, after the greeting."""
    client = ClientChannel(received.append, greeting=Hello(CONFIG))
    engine = EngineChannel(client.endpoint)
    engine.send(LoadProgress("starting", 0.0))
    while not received:
        await asyncio.sleep(0.001)
    greeting = await asyncio.to_thread(engine.receive, wait=True)
    assert greeting == Hello(CONFIG)
    return client, engine


def test_after_the_greeting_nobody_else_can_connect_and_both_ends_still_talk() -> None:
    async def main() -> None:
        received: list[FromEngine] = []
        client, engine = await connect(received)
        assert not Path(client.endpoint.removeprefix("ipc://")).parent.exists()

        for number in range(500):
            client.send(Abort([str(number)]))
            engine.send(LoadProgress("weights", number / 500))
        for number in range(500):
            message = await asyncio.to_thread(engine.receive, wait=True)
            assert message == Abort([str(number)])
        while len(received) < 501:
            await asyncio.sleep(0.001)
        assert received[-1] == LoadProgress("weights", 499 / 500)
        assert engine.receive(wait=False) is None
        engine.close()
        client.close()

    asyncio.run(main())


def test_garbage_at_both_ends_is_counted_and_the_link_stays() -> None:
    async def main() -> None:
        received: list[FromEngine] = []
        client, engine = await connect(received)
        generator = random.Random(2)
        for _ in range(500):
            engine.socket.send(generator.randbytes(generator.randrange(60)))
            client._socket.send(generator.randbytes(generator.randrange(60)))
        engine.send(LoadProgress("weights", 1.0))
        client.send(Shutdown())

        message: ToEngine | None = None
        while message is None:
            message = await asyncio.to_thread(engine.receive, wait=True)
        while len(received) < 2:
            await asyncio.sleep(0.001)
        assert message == Shutdown()
        assert received[1] == LoadProgress("weights", 1.0)
        assert engine.malformed == client.malformed == 500
        engine.close()
        client.close()

    asyncio.run(main())


def test_sending_to_an_end_that_is_gone_does_not_wait_or_raise() -> None:
    async def main() -> None:
        received: list[FromEngine] = []
        client, engine = await connect(received)
        engine.close()
        await asyncio.sleep(0.05)
        client.send(Shutdown())
        client.close()
        client.send(Shutdown())
        client.close()
        assert len(received) == 1  # what `connect` waited for

    asyncio.run(main())
