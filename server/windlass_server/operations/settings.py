"""The settings of operations, and their flags."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Literal

from windlass_server.operations.request_log import (
    LogSettings,
    add_log_arguments,
    log_from_arguments,
)
from windlass_server.operations.tls import TlsSettings, add_tls_arguments, tls_from_arguments
from windlass_server.operations.tracing import check_endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationsSettings:
    """How operators reach and watch the server.

    Without `tls` it speaks plain HTTP. `metrics_names` is the prefix of metrics that vLLM has too.
    Spans of requests are sent to `traces_endpoint`.
    """

    tls: TlsSettings | None = None
    log: LogSettings = field(default_factory=LogSettings)
    metrics_names: Literal["vllm", "windlass", "both"] = "vllm"
    traces_endpoint: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `OperationsSettings`."""
    add_tls_arguments(parser)
    add_log_arguments(parser)
    group = parser.add_argument_group("metrics")
    group.add_argument(
        "--metrics-names",
        choices=("vllm", "windlass", "both"),
        default="vllm",
        help="prefix of the metrics that vLLM has too",
    )
    group = parser.add_argument_group("traces")
    group.add_argument(
        "--otlp-traces-endpoint",
        metavar="URL",
        help="OpenTelemetry collector that gets a span per request: http://... or grpc://...",
    )


def from_arguments(args: argparse.Namespace) -> OperationsSettings:
    """Return the settings of parsed flags.

    Raises:
        ConfigError: a value is wrong, or a file cannot be read.
    """
    if args.otlp_traces_endpoint is not None:
        check_endpoint(args.otlp_traces_endpoint)
    return OperationsSettings(
        tls=tls_from_arguments(args),
        log=log_from_arguments(args),
        metrics_names=args.metrics_names,
        traces_endpoint=args.otlp_traces_endpoint,
    )
