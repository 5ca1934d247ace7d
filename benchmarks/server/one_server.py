"""One server to be measured: `python one_server.py KIND PERIOD TOKENS`.

Prints its port when it is ready. `windlass` is the whole server with its engine in a process of its
own, `windlass-2` has two API processes; `bare` is uvicorn with one ASGI function that sends the
same bytes at the same ticks.
"""

from __future__ import annotations

import asyncio
import sys
import time

import uvicorn

from metronome import next_tick
from windlass import demo_model
from windlass.async_engine import AsyncEngine
from windlass.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from windlass_server.lifecycle import serve
from windlass_server.models.settings import ModelSettings
from windlass_server.processes.settings import ProcessSettings
from windlass_server.processes.supervisor import supervise
from windlass_server.settings import ServerSettings

MODEL = "metronome"
MAX_STREAMS = 2048
PERIODS = {"every_millisecond": 0.001, "every_20_ms": 0.02, "every_second": 1.0}
WORD = b"me"
"""What the metronome's token reads as."""
CHUNK = (
    b'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","created":1700000000,'
    b'"model":"metronome","choices":[{"index":0,"delta":{"content":"me"},"logprobs":null,"finish_reason":null}],'
    b'"object":"chat.completion.chunk"}\n\n'
)


def windlass(period: str, processes: int) -> None:
    """The server as `windlass serve` starts it, with the metronome in its engine process."""
    config = EngineConfig(
        model=ModelConfig(model=str(demo_model.path())),
        cache=CacheConfig(enable_prefix_caching=False),
        scheduler=SchedulerConfig(max_num_seqs=MAX_STREAMS),
    )

    runner = f"metronome:{period}"
    settings = ServerSettings(
        models=(ModelSettings(names=(MODEL,)),),
        port=0,
        log_stats=False,
        processes=ProcessSettings(api_server_count=processes),
    )

    async def start(progress: object) -> AsyncEngine:
        del progress
        return await AsyncEngine.start(config, runner_factory=runner)

    if processes > 1:
        supervise(settings, config, runner_factory=runner)
    else:
        serve(settings, start)


def bare(period: float, tokens: int) -> None:
    """An ASGI function under uvicorn, as little as streams."""
    tick = asyncio.Event()

    async def clock() -> None:
        nonlocal tick
        while True:
            await asyncio.sleep(max(0.0, next_tick(period) - time.monotonic()))
            old, tick = tick, asyncio.Event()
            old.set()

    async def app(scope: dict, receive: object, send: object) -> None:  # type: ignore[type-arg]
        if scope["type"] == "lifespan":
            return
        while (await receive()).get("more_body"):  # type: ignore[operator]
            pass
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})  # type: ignore[operator]
        for _ in range(tokens):
            await tick.wait()
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})  # type: ignore[operator]

    async def main() -> None:
        config = uvicorn.Config(app, port=0, lifespan="off", log_level="error", http="h11")
        server = uvicorn.Server(config)
        ticking = asyncio.create_task(clock())
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        print(f"bare at http://127.0.0.1:{port}", flush=True)
        await serving
        ticking.cancel()

    asyncio.run(main())


if __name__ == "__main__":
    kind, name, count = sys.argv[1:]
    if kind == "bare":
        bare(PERIODS[name], int(count))
    else:
        windlass(name, int(kind.partition("-")[2] or 1))
