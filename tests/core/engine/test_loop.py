"""The engine's loop, run in a thread against a real socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import msgspec
import pytest
import zmq
from engine_runners import CountingRunner, answer, fast, slow

from windlass.config import CacheConfig, EngineConfig, ModelConfig
from windlass.engine.core import EngineCore
from windlass.engine.ipc import (
    Abort,
    AddRequests,
    Attach,
    Detach,
    EngineChannel,
    FromEngine,
    Hello,
    Inspect,
    Inspected,
    Outputs,
    PrefixCacheReset,
    Ready,
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

    def hears(self, seconds: float) -> bool:
        """Whether something arrives within so many seconds."""
        return bool(self.socket.poll(int(1000 * seconds)))

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


Clock = Callable[[], float]
MakeRunner = Callable[[EngineConfig], CountingRunner]


@contextmanager
def serving(make_runner: MakeRunner, clock: Clock = time.monotonic) -> Iterator[FrontEnd]:
    """A loop that runs, as its owner sees it."""
    folder = SocketFolder()
    front_end = FrontEnd(folder.endpoint)
    runner = make_runner(CONFIG)
    info = runner.load()
    engine = EngineCore(CONFIG, info, runner)
    channel = EngineChannel(folder.endpoint)
    thread = threading.Thread(target=EngineLoop(engine, channel, info, clock).run)
    thread.start()
    first = front_end.receive()
    assert isinstance(first, Outputs)
    assert first.stats.num_steps == 0
    try:
        yield front_end
    finally:
        front_end.send(Shutdown())
        thread.join(10)
        assert not thread.is_alive()
        channel.close()
        front_end.close()
        folder.remove()


@contextmanager
def attached(owner: FrontEnd, number: int) -> Iterator[FrontEnd]:
    """One more front end of the loop of `owner`."""
    folder = SocketFolder()
    other = FrontEnd(folder.endpoint)
    owner.send(Attach(folder.endpoint, number))
    greeting = other.receive()
    assert isinstance(greeting, Ready)
    assert greeting.info.architecture == "Counting"
    try:
        yield other
    finally:
        other.close()
        folder.remove()


@pytest.fixture
def front_end() -> Iterator[FrontEnd]:
    with serving(fast) as front_end:
        yield front_end


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


def told(messages: list[FromEngine]) -> set[str]:
    """The sequences that messages tell of."""
    return {o.request_id for m in messages if isinstance(m, Outputs) for o in m.outputs}


def test_each_front_end_hears_of_its_own_sequences(front_end: FrontEnd) -> None:
    with attached(front_end, 1) as first, attached(front_end, 2) as second:
        first.send(AddRequests([request("1:a", [60], max_tokens=50)]))
        second.send(AddRequests([request("2:a", [90], max_tokens=50), request("2:b", [7])]))
        front_end.send(AddRequests([request("own", [70])]))

        news = first.until(ends("1:a"))
        assert tokens(news, "1:a") == answer([60], 50)
        assert told(news) == {"1:a"}
        news = second.until(ends("2:a", "2:b"))
        assert tokens(news, "2:a") == answer([90], 50)
        assert tokens(news, "2:b") == answer([7], 5)
        assert told(news) == {"2:a", "2:b"}
        assert told(front_end.until(ends("own"))) == {"own"}


def test_every_front_end_hears_when_the_engine_falls_idle(front_end: FrontEnd) -> None:
    with attached(front_end, 1) as first, attached(front_end, 2) as second:
        first.send(AddRequests([request("1:a", [60])]))
        # Who had no part in it gets the gauges of before, and those of after.
        for other in (front_end, second):
            other.until(lambda m: is_idle(m) and isinstance(m, Outputs) and m.stats.num_steps > 0)


def test_answers_and_refusals_go_to_the_front_end_that_asked(front_end: FrontEnd) -> None:
    with attached(front_end, 1) as other:
        assert is_idle(other.receive())
        other.send(Inspect())
        other.send(ResetPrefixCache())
        other.send(AddRequests([request("1:bad", [100_000])]))

        assert isinstance(other.receive(), Inspected)
        assert other.receive() == PrefixCacheReset(done=True)
        assert isinstance(other.receive(), RequestRejected)
        assert not front_end.socket.poll(50)


def test_the_sequences_of_a_front_end_that_is_gone_leave_the_engine() -> None:
    with serving(slow) as front_end, attached(front_end, 2) as stays:
        with attached(front_end, 1) as gone:
            gone.send(AddRequests([request(f"1:{i}", [60], max_tokens=900) for i in range(3)]))
            stays.send(AddRequests([request("2:a", [60], max_tokens=30)]))
            gone.until(lambda message: isinstance(message, Outputs) and bool(message.outputs))
        front_end.send(Detach(1))
        front_end.send(Detach(9))

        news = stays.until(ends("2:a"))
        assert tokens(news, "2:a") == answer([60], 30)
        assert told(news) == {"2:a"}
        assert is_idle(news[-1]) or is_idle(stays.until(is_idle)[-1])
        steps = [message.stats.num_steps for message in news if isinstance(message, Outputs)]
        assert max(steps) < 100


def test_a_front_end_that_does_not_listen_harms_nobody(front_end: FrontEnd) -> None:
    front_end.send(Attach("ipc:///tmp/windlass-nobody-listens-here", 1))
    front_end.send(AddRequests([request("a", [60])]))

    assert tokens(front_end.until(ends("a")), "a") == answer([60], 5)


def test_front_ends_hear_that_steps_end_although_the_news_are_not_theirs() -> None:
    ticks = count()
    with serving(slow, lambda: next(ticks) / 20) as owner, attached(owner, 1) as other:
        owner.send(AddRequests([request("long", [60], max_tokens=900)]))
        beats = [other.until(lambda m: isinstance(m, Outputs) and m.stats.num_running == 1)[-1]]
        beats += [other.receive(), other.receive()]

        steps = [beat.stats.num_steps for beat in beats if isinstance(beat, Outputs)]
        assert sorted(set(steps)) == steps
        assert told(beats) == set()
