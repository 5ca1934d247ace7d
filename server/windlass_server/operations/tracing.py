"""A span per request to a model, sent to an OpenTelemetry collector.

Spans are made when a request has ended: while it is served nothing is spent on them. Nothing of
OpenTelemetry is imported unless an endpoint is set.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from windlass import __version__
from windlass.errors import ConfigError
from windlass_server.operations.request_log import route_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from starlette.types import Scope

    from windlass_server.operations.record import RequestRecord

SPAN = "llm_request"
_EXPORT_SECONDS = 5.0
_FLUSH_MILLISECONDS = 2000
_CARRIED = ("traceparent", "tracestate")
_TIMEOUT = 408


def check_endpoint(endpoint: str) -> None:
    """Refuse an endpoint to which no spans can be sent.

    Raises:
        ConfigError: it is no URL of a known scheme, or the extra `otel` is not installed.
    """
    address = urlsplit(endpoint)
    if address.scheme not in ("http", "https", "grpc", "grpcs") or not address.hostname:
        raise ConfigError(
            f"--otlp-traces-endpoint must be a URL that begins with http://, https://, grpc:// or "
            f"grpcs://, not {endpoint!r}"
        )
    try:
        _exporter(endpoint).shutdown()
    except ImportError as exc:
        raise ConfigError(
            f"--otlp-traces-endpoint needs OpenTelemetry: pip install 'windlass[otel]' ({exc})"
        ) from exc


def _exporter(endpoint: str) -> SpanExporter:
    address = urlsplit(endpoint)
    if address.scheme in ("grpc", "grpcs"):
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
            OTLPSpanExporter as GrpcExporter,
        )

        secure = address.scheme == "grpcs"
        return GrpcExporter(address.netloc, insecure=not secure, timeout=_EXPORT_SECONDS)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    path = endpoint if address.path.strip("/") else endpoint.rstrip("/") + "/v1/traces"
    return OTLPSpanExporter(path, timeout=_EXPORT_SECONDS)


class Tracer:
    """Sends spans to `endpoint`, from a thread of its own and a few seconds later.

    Raises:
        ImportError: the extra `otel` is not installed.
    """

    def __init__(self, endpoint: str) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": "windlass", "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_exporter(endpoint)))
        self._tracer = self._provider.get_tracer("windlass", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def request_ended(
        self, scope: Scope, status: int, seconds: float, record: RequestRecord
    ) -> None:
        """Make the span of one request; one that named no model has none."""
        if not record.model:
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode

        end = time.time_ns()
        headers = {name.decode("latin-1"): value for name, value in scope["headers"]}
        carrier = {name: headers[name].decode("latin-1") for name in _CARRIED if name in headers}
        span = self._tracer.start_span(
            SPAN,
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes=_attributes(scope, status, seconds, record),
            start_time=end - int(seconds * 1e9),
        )
        failure = _failure(status, record)
        if failure:
            span.set_status(Status(StatusCode.ERROR, failure))
        span.end(end)

    def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        self._provider.force_flush(_FLUSH_MILLISECONDS)
        self._provider.shutdown()


def _failure(status: int, record: RequestRecord) -> str:
    """Return what the request failed of, "" where it did not or its client was wrong."""
    if record.left:
        return "client_disconnected"
    within_stream = record.error is not None and status < 400
    if status >= 500 or status == _TIMEOUT or within_stream:
        return _error_type(record) or str(status)
    return ""


def _error_type(record: RequestRecord) -> str:
    return "" if record.error is None else record.error.code or record.error.type


def _attributes(scope: Scope, status: int, seconds: float, record: RequestRecord) -> dict[str, Any]:
    known: dict[str, Any] = {
        "gen_ai.request.id": record.request_id,
        "gen_ai.response.model": record.model,
        "gen_ai.usage.prompt_tokens": record.prompt_tokens,
        "gen_ai.usage.completion_tokens": record.completion_tokens,
        "gen_ai.latency.e2e": seconds,
        "http.request.method": scope["method"],
        "http.route": route_of(scope),
        "http.response.status_code": status,
        "error.type": _failure(status, record) or _error_type(record) or None,
        **_sampling(record),
        **_latencies(record),
    }
    return {name: value for name, value in known.items() if value is not None}


def _sampling(record: RequestRecord) -> dict[str, Any]:
    sampling = record.sampling
    if sampling is None:
        return {}
    names = ("n", "max_tokens", "temperature", "top_p")
    return {f"gen_ai.request.{name}": getattr(sampling, name) for name in names}


def _latencies(record: RequestRecord) -> dict[str, float]:
    """Return times in seconds from the engine: earliest start and first token, latest end."""
    times = [timer.times for timer in record.timers if timer.times is not None]
    if not times or len(times) < len(record.timers):
        return {}
    queue = min(one.queue_time for one in times)
    first = min(one.time_to_first_token for one in times)
    total = max(one.total_time for one in times)
    named = {
        "time_in_queue": queue,
        "time_to_first_token": first,
        "time_in_model_prefill": first - queue,
        "time_in_model_decode": total - first,
        "time_in_model_inference": total - queue,
    }
    return {f"gen_ai.latency.{name}": value for name, value in named.items()}
