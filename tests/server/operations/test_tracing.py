"""Spans as a collector gets them: over HTTP and gRPC, with the trace of the caller."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from serve_process import MODEL, ServeProcess, wait_for

from windlass.cli import main
from windlass.errors import RequestFailedError
from windlass_server.operations.settings import OperationsSettings

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span
    from tests.server.conftest import FakeEngine, MakeClient, Serve

    from windlass_server.state import ServerState

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {
    "model": "fake-model",
    "messages": [{"role": "user", "content": "Hello"}],
}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
UNSET, ERROR = 0, 2


class Collector:
    """What arrived: spans, and the attributes of the resource that sent the last ones."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Span] = []
        self.resource: dict[str, Any] = {}

    def take(self, message: ExportTraceServiceRequest) -> None:
        for resource in message.resource_spans:
            self.resource = attributes(resource.resource)
            for scope in resource.scope_spans:
                self.spans += scope.spans


def attributes(holder: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in holder.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """OTLP over HTTP."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            data = self.rfile.read(int(self.headers["content-length"]))
            collector.take(ExportTraceServiceRequest.FromString(data))
            body = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    collector.url = f"http://127.0.0.1:{server.server_port}"
    yield collector
    server.shutdown()
    server.server_close()


@pytest.fixture
def traced(make_state: Any, collector: Collector) -> Iterator[ServerState]:
    state = make_state(operations=OperationsSettings(traces_endpoint=collector.url))
    yield state
    state.tracer.close()


async def spans(state: ServerState, collector: Collector) -> list[tuple[Span, dict[str, Any]]]:
    """Every span so far, with its attributes."""
    assert state.tracer is not None
    await asyncio.to_thread(state.tracer._provider.force_flush, 10_000)
    assert all(span.name == "llm_request" for span in collector.spans)
    return [(span, attributes(span)) for span in collector.spans]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_a_span_in_the_trace_of_its_caller(
    make_client: MakeClient,
    traced: ServerState,
    collector: Collector,
    engine: FakeEngine,
    stream: bool,
) -> None:
    client = await make_client(state=traced)
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "id1"}
    body = {**HELLO, "stream": stream, "n": 2, "max_tokens": 4, "temperature": 0.5, "top_p": 0.9}
    await client.post(CHAT, json=body, headers=headers)
    ((span, found),) = await spans(traced, collector)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.status.code == UNSET
    assert span.end_time_unix_nano > span.start_time_unix_nano
    seconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
    assert found.pop("gen_ai.latency.e2e") == pytest.approx(seconds, abs=1e-6)
    assert found == {
        "gen_ai.request.id": "id1",
        "gen_ai.request.n": 2,
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.response.model": "fake-model",
        "gen_ai.usage.prompt_tokens": len(engine.submitted[0].prompt_token_ids),
        "gen_ai.usage.completion_tokens": 8,
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
    }
    assert collector.resource["service.name"] == "windlass"


async def test_a_caller_that_does_not_sample_gets_no_span(
    make_client: MakeClient, traced: ServerState, collector: Collector
) -> None:
    client = await make_client(state=traced)
    await client.post(CHAT, json=HELLO, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    await client.post(CHAT, json=HELLO, headers={"traceparent": "not one"})
    await client.get("/health")
    ((span, _),) = await spans(traced, collector)
    assert span.trace_id.hex() != TRACE
    assert not span.parent_span_id


async def test_refusals_and_failures_end_their_spans(
    make_client: MakeClient, traced: ServerState, collector: Collector, engine: FakeEngine
) -> None:
    client = await make_client(state=traced)
    too_long = {"role": "user", "content": "word " * 1000}
    await client.post(CHAT, json={**HELLO, "messages": [too_long]})
    engine.overload()
    await client.post(CHAT, json=HELLO)
    wrong, refused = await spans(traced, collector)
    assert wrong[0].status.code == UNSET
    assert wrong[1]["http.response.status_code"] == 400
    assert wrong[1]["error.type"] == "context_length_exceeded"
    assert (refused[0].status.code, refused[0].status.message) == (ERROR, "server_overloaded")
    assert refused[1]["http.response.status_code"] == 503


async def test_a_failure_within_a_stream_is_the_span_s_error(
    make_client: MakeClient, traced: ServerState, collector: Collector, engine: FakeEngine
) -> None:
    client = await make_client(state=traced)
    engine.pause_after = 3
    asking = asyncio.create_task(client.post(CHAT, json={**HELLO, "stream": True}))
    await engine.wait_paused()
    engine.fail(next(iter(engine.running)), RequestFailedError("no"))
    await asking
    ((span, found),) = await spans(traced, collector)
    assert (span.status.code, span.status.message) == (ERROR, "request_failed")
    assert found["http.response.status_code"] == 200
    assert found["gen_ai.usage.completion_tokens"] == 3


@pytest.mark.parametrize(("tokens", "status"), [(0, 504), (3, 200)])
async def test_a_deadline_ends_the_span_of_its_request(
    make_client: MakeClient,
    make_state: Any,
    collector: Collector,
    engine: FakeEngine,
    tokens: int,
    status: int,
) -> None:
    operations = OperationsSettings(traces_endpoint=collector.url)
    state = make_state(operations=operations, request_timeout=0.5)
    client = await make_client(state=state)
    if tokens:
        engine.pause_after = tokens
    else:
        engine.gate.clear()
    await client.post(CHAT, json={**HELLO, "stream": True})
    ((span, found),) = await spans(state, collector)
    assert (span.status.code, span.status.message) == (ERROR, "deadline_exceeded")
    assert found["http.response.status_code"] == status
    assert found["gen_ai.usage.completion_tokens"] == tokens
    state.tracer.close()


async def test_a_client_that_leaves_ends_its_span(
    serve: Serve, collector: Collector, engine: FakeEngine
) -> None:
    operations = OperationsSettings(traces_endpoint=collector.url)
    state, client = await serve(operations=operations)
    engine.pause_after = 2
    async with client.stream("POST", CHAT, json={**HELLO, "stream": True}) as response:
        assert response.status_code == 200
    async with asyncio.timeout(10):
        while state.in_flight:
            await asyncio.sleep(0.01)
    ((span, found),) = await spans(state, collector)
    assert (span.status.code, found["error.type"]) == (ERROR, "client_disconnected")
    assert state.tracer is not None
    state.tracer.close()


def test_a_server_sends_what_is_left_when_it_ends() -> None:
    """Over gRPC, with the engine's own times."""
    collector = Collector()

    class Service(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]
        def Export(self, request: Any, _context: Any) -> ExportTraceServiceResponse:
            collector.take(request)
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with ServeProcess("--otlp-traces-endpoint", f"grpc://127.0.0.1:{port}") as process:
            body = {"model": MODEL, "prompt": "Hello", "max_tokens": 5, "ignore_eos": True}
            httpx.post(f"{process.url}/v1/completions", json=body, timeout=60)
        wait_for(lambda: collector.spans)
    finally:
        server.stop(None)
    found = attributes(collector.spans[0])
    latency = {
        name.rpartition(".")[2]: value for name, value in found.items() if ".latency." in name
    }
    assert latency["time_in_model_inference"] == pytest.approx(
        latency["time_in_model_prefill"] + latency["time_in_model_decode"]
    )
    assert 0 < latency["time_to_first_token"] < latency["e2e"]
    assert latency["time_in_queue"] + latency["time_in_model_inference"] <= latency["e2e"]


def test_a_collector_that_is_away_keeps_nobody_waiting() -> None:
    with ServeProcess("--otlp-traces-endpoint", "http://127.0.0.1:9") as process:
        body = {"model": MODEL, "prompt": "Hello", "max_tokens": 5}
        for _ in range(3):
            answer = httpx.post(f"{process.url}/v1/completions", json=body, timeout=60)
            assert answer.status_code == 200


@pytest.mark.parametrize("endpoint", ["localhost:4317", "ftp://x", "http://"])
def test_an_endpoint_that_is_none_stops_the_start(
    endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--port", "0", "--otlp-traces-endpoint", endpoint]) == 2
    assert "--otlp-traces-endpoint must be a URL" in capsys.readouterr().err


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_without_the_extra_the_start_says_what_to_install(
    scheme: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.startswith("opentelemetry.exporter")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    assert main(["serve", "--port", "0", "--otlp-traces-endpoint", f"{scheme}://x:1"]) == 2
    assert "pip install 'windlass[otel]'" in capsys.readouterr().err


def test_nothing_of_it_is_imported_when_it_is_off() -> None:
    code = "import sys, windlass_server.lifecycle, windlass_server.operations.settings as s\n"
    code += "from windlass_server.state import ServerState; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # FastAPI itself imports the API, which does nothing without the SDK.
    wanted = ("opentelemetry.sdk", "opentelemetry.exporter", "grpc")
    assert not [name for name in done.stdout.split() if name.startswith(wanted)]
