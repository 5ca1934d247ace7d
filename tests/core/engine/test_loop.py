"""The engine's loop, run in a thread against a real socket."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest
import zmq
from engine_runners import answer, fast

from windlass.config import CacheConfig, EngineConfig, ModelConfig
from windlass.engine.core import EngineCore
from windlass.engine.ipc import (
    Abort,
    AddRequests,
    EngineChannel,
    FromEngine,
    Hello,
    Inspect,
    Inspected,
    Outputs,
    PrefixCacheReset,
    RequestRejected,
    ResetPrefixCache,
    Shutdown,
    SocketFolder,
    ToEngine,
    from_engine_decoder,
)
from windlass.engine.loop import EngineLoop
from windlass.request import Request, SamplingParams

CONFIG = EngineConfig(model=ModelConfig(model="counting"), cache=CacheConfig(num_blocks=64))


class FrontEnd:
    """The other end of the loop's socket."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.PAIR)
        self.socket.rcvtimeo = 10_000
        self.socket.bind(endpoint)
        self._decoder = from_engine_decoder()

    def send(self, message: ToEngine) -> None:
        self.socket.send(msgspec.msgpack.encode(message))

    def receive(self) -> FromEngine:
        message = self._decoder.decode(self.socket.recv())
        assert message is not None
        return message

    def until(self, wanted: Callable[[FromEngine], bool]) -> list[FromEngine]:
        """Everything up to the first message that is wanted."""
        messages = [self.receive()]
        while not wanted(messages[-1]):
            messages.append(self.receive())
        return messages

    def close(self) -> None:
        self.socket.close(linger=0)
        self._context.term()


@pytest.fixture
def front_end() -> Iterator[FrontEnd]:
    folder = SocketFolder()
    front_end = FrontEnd(folder.endpoint)
    runner = fast(CONFIG)
    engine = EngineCore(CONFIG, runner.load(), runner)
    channel = EngineChannel(folder.endpoint)
    thread = threading.Thread(target=EngineLoop(engine, channel).run)
    thread.start()
    first = front_end.receive()
    assert isinstance(first, Outputs)
    assert first.stats.num_steps == 0
    yield front_end
    front_end.send(Shutdown())
    thread.join(10)
    assert not thread.is_alive()
    channel.close()
    front_end.close()
    folder.remove()


def request(request_id: str, prompt: list[int], max_tokens: int = 5) -> Request:
    sampling = SamplingParams(max_tokens=max_tokens, seed=0, ignore_eos=True)
    return Request(request_id=request_id, prompt_token_ids=prompt, sampling=sampling)


def ends(*request_ids: str) -> Callable[[FromEngine], bool]:
    """Whether all of these have ended, over the messages seen."""
    left = set(request_ids)

    def seen(message: FromEngine) -> bool:
        if isinstance(message, Outputs):
            left.difference_update(o.request_id for o in message.outputs if o.finished)
        return not left

    return seen


def is_idle(message: FromEngine) -> bool:
    """Whether the stats show an engine that holds nothing."""
    return (
        isinstance(message, Outputs)
        and message.stats.num_running == message.stats.num_waiting == 0
        and message.stats.num_free_blocks == message.stats.num_blocks
    )


def tokens(messages: list[FromEngine], request_id: str) -> list[int]:
    return [
        token
        for message in messages
        if isinstance(message, Outputs)
        for output in message.outputs
        if output.request_id == request_id
        for token in output.new_token_ids
    ]


def test_the_news_of_a_step_travel_as_one_message(front_end: FrontEnd) -> None:
    front_end.send(AddRequests([request("a", [60]), request("b", [90, 70])]))
    messages = front_end.until(ends("a", "b"))

    assert tokens(messages, "a") == answer([60], 5)
    assert tokens(messages, "b") == answer([90, 70], 5)
    assert len(messages) == 5


def test_the_last_stats_before_the_engine_falls_idle_are_idle_ones(front_end: FrontEnd) -> None:
    front_end.send(AddRequests([request("a", [60]), request("b", [60], max_tokens=1_000)]))
    front_end.until(ends("a"))
    front_end.send(Abort(["b"]))

    assert is_idle(front_end.until(is_idle)[-1])


def test_the_prefix_cache_is_reset_on_demand(front_end: FrontEnd) -> None:
    front_end.send(ResetPrefixCache())

    assert front_end.receive() == PrefixCacheReset(done=True)


def test_the_engine_is_inspected_on_demand(front_end: FrontEnd) -> None:
    front_end.send(Inspect())

    message = front_end.receive()
    assert isinstance(message, Inspected)
    assert message.view.sequences == []
    assert len(message.view.blocks) == message.view.stats.num_blocks == 63


def test_a_request_that_is_refused_ends_alone(front_end: FrontEnd) -> None:
    front_end.send(AddRequests([request("bad", [100_000]), request("good", [60])]))
    messages = front_end.until(ends("good"))
    rejected = [message for message in messages if isinstance(message, RequestRejected)]

    assert [message.request_id for message in rejected] == ["bad"]
    assert rejected[0].param == "prompt"
    assert "100000" in rejected[0].message
    assert tokens(messages, "good") == answer([60], 5)


def test_an_abort_of_an_unknown_request_and_a_second_hello_do_nothing(front_end: FrontEnd) -> None:
    front_end.send(Abort(["nobody"]))
    front_end.send(Hello(CONFIG))
    front_end.send(AddRequests([request("a", [60])]))

    assert tokens(front_end.until(ends("a")), "a") == answer([60], 5)


def test_garbage_between_requests_does_no_harm(front_end: FrontEnd) -> None:
    for number in range(200):
        front_end.socket.send(bytes([number]) * number)
    front_end.send(AddRequests([request("a", [60])]))
    front_end.socket.send(b"\xc1")

    assert tokens(front_end.until(ends("a")), "a") == answer([60], 5)
