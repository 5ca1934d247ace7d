"""What a streamed token costs in the server, beside a bare uvicorn application.

    python benchmarks/server/streaming.py [--streams 64] [--tokens 200] [--repeats 3]
    python benchmarks/server/streaming.py --streams 2000 --tokens 20 --period every_second
    python benchmarks/server/streaming.py --api-server-count 2 --period every_millisecond

All servers send a token to every stream at each tick of one clock (20 ms, or a second). Ours is
the whole server, with a model runner that only waits for the tick in its engine process; with
`--api-server-count` it is measured with so many API processes too. Per repeat, in turn:
microseconds of processor time for each token in the server process (in the supervisor and all API
processes), how long after its tick a token is with the client, and tokens a second, which tell
something where the ticks come faster than they can be served. Every stream is read to its end and
its tokens are counted: a token that is missing ends the benchmark. The client and the engine run on
the same processors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from one_server import MODEL, PERIODS, WORD

HERE = Path(__file__).parent
API_PROCESS = "windlass_server.processes.api_process"


@dataclass
class Run:
    """One repeat: microseconds a token, tokens a second, seconds of every token behind its tick."""

    cost: float
    rate: float
    behind: list[float] = field(default_factory=list)


class Stream(asyncio.Protocol):
    """One client's connection: sends a request, counts tokens, keeps what came."""

    def __init__(self, request: bytes, period: float) -> None:
        self._request, self._period = request, period
        self.received, self.behind = bytearray(), list[float]()
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self._transport = transport
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Note when tokens come."""
        late = time.monotonic() % self._period
        self.behind += [late] * data.count(b'"delta":{"content":"')
        self.received += data
        if b"[DONE]" in data:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The stream is over, whole or not."""
        if not self.ended.done():
            self.ended.set_result(exc)


def request(tokens: int) -> bytes:
    """A chat completion as bytes."""
    body = json.dumps(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Go on."}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
        }
    ).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def words(received: bytes) -> int:
    """How many tokens a stream's answer holds; each is one `WORD`."""
    found = re.findall(rb'"delta":\{"content":"([^"]*)"', received)
    return b"".join(found).count(WORD)


def processor_time(server: int) -> float:
    """Seconds that a server and its API processes have worked."""
    parent = psutil.Process(server)
    children = [child for child in parent.children() if API_PROCESS in child.cmdline()]
    return sum(sum(process.cpu_times()[:2]) for process in (parent, *children))


async def measure(port: int, server: int, args: argparse.Namespace) -> Run:
    """Run all streams at once, to their end."""
    loop, period = asyncio.get_running_loop(), PERIODS[args.period]
    asked = request(args.tokens)
    before, began = processor_time(server), time.monotonic()
    streams = []
    for _ in range(args.streams):
        _, stream = await loop.create_connection(lambda: Stream(asked, period), "127.0.0.1", port)
        streams.append(stream)
    await asyncio.gather(*(stream.ended for stream in streams))
    took, spent = time.monotonic() - began, processor_time(server) - before
    for stream in streams:
        if b"[DONE]" not in stream.received or words(bytes(stream.received)) != args.tokens:
            end = bytes(stream.received[-300:])
            raise SystemExit(f"a stream has {words(bytes(stream.received))} tokens: {end!r}")
    behind = [late for stream in streams for late in stream.behind]
    tokens = args.streams * args.tokens
    return Run(1e6 * spent / tokens, tokens / took, behind)


def start(kind: str, args: argparse.Namespace) -> tuple[subprocess.Popen[str], int]:
    """Start a server and wait until it is ready."""
    command = [sys.executable, str(HERE / "one_server.py"), kind, args.period, str(args.tokens)]
    variables = os.environ | {"PYTHONPATH": str(HERE)}  # the engine's process looks there too
    process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        match = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if match:
            return process, int(match[1])
    raise SystemExit(f"{kind} did not start")


def main() -> int:
    """Measure in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--streams", type=int, default=64)
    add("--tokens", type=int, default=200)
    add("--period", choices=PERIODS, default="every_20_ms")
    add("--repeats", type=int, default=3)
    add("--api-server-count", type=int, help="measure so many API processes as well")
    args = parser.parse_args()
    several = [f"windlass-{args.api_server_count}"] if args.api_server_count else []
    kinds = ["windlass", *several, "bare"]
    servers = {kind: start(kind, args) for kind in kinds}
    runs: dict[str, list[Run]] = {kind: [] for kind in kinds}
    try:
        for repeat in range(args.repeats + 1):  # the first one warms up
            for kind, (process, port) in servers.items():
                run = asyncio.run(measure(port, process.pid, args))
                if repeat:
                    runs[kind].append(run)
    finally:
        for process, _ in servers.values():
            process.terminate()
            process.wait(30)
    report(runs, args)
    return 0


def report(runs: dict[str, list[Run]], args: argparse.Namespace) -> None:
    """Medians with the lowest and the highest."""
    table = Table(title=f"{args.streams} streams of {args.tokens} tokens, {args.period}")
    for column in ("server", "µs/token", "tokens/s", "behind its tick p50 ms", "p99 ms"):
        table.add_column(column)
    rows: dict[str, list[list[float]]] = {}
    for kind, repeats in runs.items():
        columns = [[run.cost for run in repeats], [run.rate for run in repeats]]
        columns += [
            [1e3 * statistics.quantiles(run.behind, n=100)[at] for run in repeats]
            for at in (49, 98)
        ]
        rows[kind] = columns
        table.add_row(kind, *map(spread, columns))
    for kind in list(rows)[1:]:
        ratios = [
            [a / b for a, b in zip(*pair, strict=True)]
            for pair in zip(rows["windlass"], rows[kind], strict=True)
        ]
        table.add_row(f"windlass / {kind}", *map(spread, ratios))
    Console(width=110).print(table)


def spread(values: list[Any]) -> str:
    """The median, and both ends."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


if __name__ == "__main__":
    sys.exit(main())
