"""Sends requests to an OpenAI-compatible server at given times and records what comes back."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from windlass.commands.bench.random_prompts import RandomPrompt
from windlass.commands.bench.request_record import RequestRecord
from windlass.commands.server_sent_events import (
    END_OF_STREAM,
    EventParser,
    read_chunk,
    response_error,
)
from windlass.errors import EngineError, WindlassError

_CONNECT_SECONDS = 30.0
_READY_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where requests go and what every body says. A chat endpoint gets the prompt as a message."""

    base_url: str
    endpoint: str
    model: str
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    decode: Callable[[list[int]], str] | None = None

    def request_body(self, prompt: RandomPrompt) -> dict[str, Any]:
        """The JSON body of one streamed request."""
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": prompt.output_len,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.body,
        }
        if self.decode is None:
            body["prompt"] = prompt.token_ids
        else:
            body["messages"] = [{"role": "user", "content": self.decode(prompt.token_ids)}]
        return body


def arrival_times(
    count: int, request_rate: float, burstiness: float = 1.0, seed: int = 0
) -> list[float]:
    """Seconds after the start at which requests are sent, the first at 0.

    Gaps follow a gamma distribution of shape `burstiness` (1: a Poisson process, smaller: in
    bursts, larger: evenly), scaled so that the offered rate is exactly `request_rate` per second.
    An infinite rate sends all at once.
    """
    if math.isinf(request_rate) or count == 1:
        return [0.0] * count
    gaps = np.random.default_rng(seed).gamma(burstiness, size=count - 1)
    offsets = np.concatenate([[0.0], np.cumsum(gaps)])
    times: list[float] = (offsets * ((count - 1) / request_rate / offsets[-1])).tolist()
    return times


async def wait_until_ready(target: Target, seconds: float) -> None:
    """Wait until the server answers at all; raises EngineError when the time is up."""
    deadline = time.monotonic() + seconds
    async with httpx.AsyncClient(base_url=target.base_url, headers=target.headers) as client:
        while True:
            try:
                response = await client.get("/v1/models")
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
            else:
                if response.status_code < 500:
                    return
                reason = f"it answers {response.status_code}"
            if time.monotonic() >= deadline:
                raise EngineError(f"no server is ready at {target.base_url}: {reason}")
            await asyncio.sleep(_READY_POLL_SECONDS)


async def first_model(target: Target) -> tuple[str, str]:
    """The name of the server's first model, and where its files are (the name if it is not said).

    Raises:
        WindlassError: the server refuses, or has no model.
    """
    async with httpx.AsyncClient(base_url=target.base_url, headers=target.headers) as client:
        response = await client.get("/v1/models")
    if response.status_code >= 400:
        raise response_error(response.status_code, response.content)
    models = response.json().get("data", [])
    if not models:
        raise EngineError(f"the server at {target.base_url} has no model")
    name: str = models[0]["id"]
    return name, models[0].get("root") or name


async def send_all(
    target: Target,
    prompts: Sequence[RandomPrompt],
    arrivals: Sequence[float],
    *,
    max_concurrency: int | None = None,
    on_done: Callable[[RequestRecord], None] | None = None,
) -> tuple[list[RequestRecord], float]:
    """Send every prompt at its time; returns a record for each and the duration in seconds.

    A request that waits for one of `max_concurrency` places is timed from when it is sent.
    """
    places = asyncio.Semaphore(max_concurrency) if max_concurrency else nullcontext()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)

    async with httpx.AsyncClient(
        base_url=target.base_url, headers=target.headers, limits=limits, timeout=timeout
    ) as client:
        begin = time.perf_counter()

        async def send_one(prompt: RandomPrompt, arrival: float) -> RequestRecord:
            await asyncio.sleep(begin + arrival - time.perf_counter())
            async with places:
                record = await _send(client, target, prompt)
            if on_done is not None:
                on_done(record)
            return record

        records = await asyncio.gather(
            *(send_one(prompt, at) for prompt, at in zip(prompts, arrivals, strict=True))
        )
        return list(records), time.perf_counter() - begin


async def _send(client: httpx.AsyncClient, target: Target, prompt: RandomPrompt) -> RequestRecord:
    body = target.request_body(prompt)
    record = RequestRecord(start=time.perf_counter(), prompt_tokens=len(prompt.token_ids))
    try:
        await _receive(client, target.endpoint, body, record)
    except (WindlassError, httpx.HTTPError) as error:
        record.error = f"{type(error).__name__}: {error}"
    record.end = time.perf_counter()
    return record


async def _receive(
    client: httpx.AsyncClient, endpoint: str, body: dict[str, Any], record: RequestRecord
) -> None:
    parser = EventParser()
    async with client.stream("POST", endpoint, json=body) as response:
        if response.status_code >= 400:
            raise response_error(response.status_code, await response.aread())
        async for data in response.aiter_bytes():
            now = time.perf_counter()
            for event in parser.feed(data):
                if event == END_OF_STREAM:
                    return
                _note(read_chunk(event), now, record)
    raise EngineError("the stream ended before its end was announced")


def _note(chunk: dict[str, Any], now: float, record: RequestRecord) -> None:
    if any(_has_text(choice) for choice in chunk.get("choices", ())):
        record.arrivals.append(now)
    usage = chunk.get("usage")
    if usage:
        record.prompt_tokens = usage["prompt_tokens"]
        record.output_tokens = usage["completion_tokens"]


def _has_text(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    return bool(choice.get("text") if delta is None else delta.get("content"))
