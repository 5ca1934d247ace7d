"""The stream of one request: bounded, ended once, aborted when it is left."""

from __future__ import annotations

import asyncio

import pytest

from windlass.errors import RequestFailedError
from windlass.request import CompletionOutput, Logprob, RequestOutput
from windlass.request_stream import Inbox, RequestStream, merge_deltas


def output(
    *completions: CompletionOutput, finished: bool = False, cached: int = 0
) -> RequestOutput:
    return RequestOutput(
        request_id="r",
        prompt="p",
        prompt_token_ids=[1],
        outputs=list(completions),
        finished=finished,
        num_cached_tokens=cached,
    )


def answer(text: str, token: int, index: int = 0) -> CompletionOutput:
    return CompletionOutput(
        index=index,
        text=text,
        token_ids=[token],
        logprobs=[{token: Logprob(-1.0)}],
        cumulative_logprob=-float(token),
    )


def test_deltas_nobody_took_are_joined_per_answer() -> None:
    second = answer("b", 2)
    second.finish_reason, second.stop_reason = "stop", 2
    merged = merge_deltas(
        output(answer("a", 1), answer("x", 7, index=1), cached=3),
        output(second, answer("y", 8, index=2), finished=True, cached=3),
    )

    assert [(c.index, c.text, list(c.token_ids)) for c in merged.outputs] == [
        (0, "ab", [1, 2]),
        (1, "x", [7]),
        (2, "y", [8]),
    ]
    first = merged.outputs[0]
    assert first.logprobs == [{1: Logprob(-1.0)}, {2: Logprob(-1.0)}]
    assert (first.cumulative_logprob, first.finish_reason, first.stop_reason) == (-2.0, "stop", 2)
    assert merged.finished
    assert merged.num_cached_tokens == 3


def test_cumulative_outputs_replace_each_other() -> None:
    async def main() -> None:
        inbox = Inbox("r")
        inbox.put(output(answer("a", 1)))
        inbox.put(output(answer("ab", 2), finished=True))
        inbox.put(output(answer("late", 3)))
        texts = [o.outputs[0].text async for o in RequestStream(inbox, lambda _: None)]
        assert texts == ["ab"]

    asyncio.run(main())


def test_an_error_comes_after_the_news_that_wait_and_only_once() -> None:
    async def main() -> None:
        inbox = Inbox("r", merge_deltas)
        stream = RequestStream(inbox, lambda _: None)
        inbox.put(output(answer("a", 1)))
        inbox.fail(RequestFailedError("a step failed"))
        inbox.fail(RequestFailedError("again"))
        assert (await anext(stream)).outputs[0].text == "a"
        with pytest.raises(RequestFailedError, match="a step failed"):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    asyncio.run(main())


def test_a_waiting_consumer_is_woken_by_news_and_by_the_end() -> None:
    async def main() -> None:
        inbox = Inbox("r", merge_deltas)
        taking = asyncio.create_task(inbox.take())
        await asyncio.sleep(0)
        inbox.put(output(answer("a", 1)))
        news = await taking
        assert news is not None
        assert news.outputs[0].text == "a"
        taking = asyncio.create_task(inbox.take())
        await asyncio.sleep(0)
        inbox.end()
        assert await taking is None

    asyncio.run(main())


@pytest.mark.parametrize("way", ["close", "cancel", "drop", "break"])
def test_leaving_a_stream_aborts_its_request(way: str) -> None:
    aborted: list[str] = []

    async def leave(stream: RequestStream[RequestOutput], inbox: Inbox[RequestOutput]) -> None:
        if way == "close":
            await stream.aclose()
        elif way == "cancel":
            waiting = asyncio.create_task(anext(stream))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        elif way == "break":
            inbox.put(output(answer("a", 1)))
            async for _ in stream:
                break

    async def main() -> None:
        inbox = Inbox("r", merge_deltas)

        def abort(request_id: str) -> None:
            aborted.append(request_id)
            inbox.end()

        await leave(RequestStream(inbox, abort), inbox)
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert aborted == ["r"]


def test_a_stream_that_ended_is_not_aborted() -> None:
    aborted: list[str] = []

    async def main() -> None:
        inbox = Inbox("r", merge_deltas)
        stream = RequestStream(inbox, aborted.append)
        inbox.put(output(answer("a", 1), finished=True))
        async for _ in stream:
            pass
        stream.abort()
        await stream.aclose()
        del stream
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert aborted == []
