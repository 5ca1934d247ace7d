"""Lines of a batch's input: what is read, what is refused and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from windlass_server.batches.lines import (
    MAX_CUSTOM_ID,
    LineFault,
    custom_id_of,
    model_of,
    read_line,
    read_lines,
)

GOOD: dict[str, Any] = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/completions",
    "body": {"model": "m", "prompt": "p"},
}


def written(**changes: Any) -> bytes:
    fields = {**GOOD, **changes}
    return json.dumps({k: v for k, v in fields.items() if v is not ...}).encode()


def test_a_line_keeps_its_body_as_it_was_written() -> None:
    data = (
        b'{"custom_id":"a","method":"POST","url":"/v1/completions","body": {"model":"m", "x":1e2} }'
    )
    line = read_line(data, 1000)
    assert line.body == b'{"model":"m", "x":1e2}'
    assert (line.custom_id, line.url, model_of(line)) == ("a", "/v1/completions", "m")


@pytest.mark.parametrize(
    ("data", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"[]", "invalid_json_line", None),
        (b'"\xff"', "invalid_json_line", None),
        (b"[" * 5000, "invalid_json_line", None),
        (written(custom_id=...), "missing_required_parameter", "custom_id"),
        (written(custom_id=3), "invalid_type", "custom_id"),
        (written(custom_id=""), "invalid_value", "custom_id"),
        (written(custom_id="x" * (MAX_CUSTOM_ID + 1)), "invalid_value", "custom_id"),
        (written(method="GET"), "invalid_method", "method"),
        (written(method=...), "missing_required_parameter", "method"),
        (written(url="/v1/nothing"), "invalid_url", "url"),
        (written(url=...), "missing_required_parameter", "url"),
        (written(body=...), "missing_required_parameter", "body"),
        (written(body="text"), "invalid_type", "body"),
    ],
)
def test_a_faulty_line_is_refused_by_name(data: bytes, code: str, param: str | None) -> None:
    with pytest.raises(LineFault) as caught:
        read_line(data, 100_000)
    assert (caught.value.code, caught.value.param) == (code, param)


def test_the_longest_id_and_the_longest_line_are_accepted() -> None:
    data = written(custom_id="x" * MAX_CUSTOM_ID)
    assert read_line(data, len(data)).custom_id == "x" * MAX_CUSTOM_ID
    with pytest.raises(LineFault, match="longer"):
        read_line(data, len(data) - 1)


@pytest.mark.parametrize("body", [{}, {"model": 3}])
def test_a_body_without_a_model_is_told(body: dict[str, Any]) -> None:
    with pytest.raises(LineFault, match=r"body\.model"):
        model_of(read_line(written(body=body), 1000))


def test_a_faulty_line_may_still_have_its_id() -> None:
    assert custom_id_of(written(method="GET")) == "a"
    assert custom_id_of(b"{") is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"a\nb\n", [(1, b"a"), (2, b"b")]),
        (b"a\r\n\r\n \nb", [(1, b"a"), (4, b"b")]),
        (b"a" * 10 + b"\nb", [(1, b"a" * 10), (2, b"b")]),
        (b"a" * 11 + b"\nb", [(1, b"a" * 11), (2, b"b")]),
        (b"a" * 3_000_000 + b"\nb", [(1, b"a" * 11), (2, b"b")]),
        (b"a" * 11, [(1, b"a" * 11)]),
    ],
)
def test_a_line_that_is_too_long_does_not_hide_the_next(
    tmp_path: Path, content: bytes, expected: list[tuple[int, bytes]]
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    assert list(read_lines(path, 10)) == expected
