"""What must hold for a batch as a whole before any of its lines is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from windlass_server.batches.lines import LineFault, model_of, read_line, read_lines
from windlass_server.errors import ApiError
from windlass_server.protocol.batches import BatchError

MAX_ERRORS = 100
"""Faults that are reported; reading stops there."""


class BatchFault(Exception):
    """An input that is no batch."""

    def __init__(self, errors: list[BatchError]) -> None:
        super().__init__(errors[0].message)
        self.errors = errors


class BatchInput(NamedTuple):
    """What is known of a batch whose input is right."""

    total: int
    model: str


def validate(
    path: Path,
    endpoint: str,
    *,
    max_lines: int,
    max_line_bytes: int,
    require_model: Callable[[str], object],
) -> BatchInput:
    """Read an input file: every line is a request to `endpoint` for one and the same model.

    `require_model` raises an ApiError for a model that is not served.

    Raises:
        BatchFault: it is not; or there are no lines, or more than `max_lines`.
    """
    errors: list[BatchError] = []
    custom_ids: set[str] = set()
    model: str | None = None
    total = 0
    for number, data in read_lines(path, max_line_bytes):
        total += 1
        if total > max_lines:
            text = f"The file has more than {max_lines} requests."
            raise BatchFault([BatchError("too_many_requests", text)])
        try:
            custom_id, its_model = _check(data, endpoint, model, max_line_bytes)
            if custom_id in custom_ids:
                text = "The 'custom_id' of another line is used again."
                raise LineFault("duplicate_custom_id", text, "custom_id")
            custom_ids.add(custom_id)
            model = its_model
        except LineFault as fault:
            errors.append(BatchError(fault.code, fault.message, number, fault.param))
            if len(errors) == MAX_ERRORS:
                break
    if not errors and model is None:
        errors = [BatchError("empty_file", "The file has no requests.")]
    if errors or model is None:
        raise BatchFault(errors)
    try:
        require_model(model)
    except ApiError as exc:
        error = BatchError("model_not_found", exc.error.message, param="body.model")
        raise BatchFault([error]) from None
    return BatchInput(total, model)


def _check(data: bytes, endpoint: str, model: str | None, max_bytes: int) -> tuple[str, str]:
    """Return id and model of a line."""
    line = read_line(data, max_bytes)
    if line.url != endpoint:
        text = f"The 'url' must be the endpoint of the batch, {endpoint}."
        raise LineFault("invalid_url", text, "url")
    its_model = model_of(line)
    if model is not None and its_model != model:
        text = "The 'model' is not that of the lines before: a batch has one model."
        raise LineFault("mismatched_model", text, "body.model")
    return line.custom_id, its_model
