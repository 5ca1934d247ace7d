"""Which API process a request belongs to."""

from __future__ import annotations

import json

import pytest

from windlass_server.processes.control import Place
from windlass_server.processes.holders import holder_in, holder_of, mark_of

PLACE = Place(index=1, count=12, folder="/nowhere", created=0)


@pytest.mark.parametrize(
    ("name", "holder"),
    [
        (f"resp_{mark_of(PLACE)}0123", 1),
        ("msg_p11_0123", 11),
        ("resp_p12_0123", None),
        ("resp_p0123", None),
        ("resp_0123", None),
        ("p1_0123", None),
        ("", None),
        (None, None),
        (7, None),
    ],
)
def test_an_id_tells_its_process(name: object, holder: int | None) -> None:
    assert holder_of(name, PLACE) == holder


@pytest.mark.parametrize(
    ("body", "holder"),
    [
        ({"previous_response_id": "resp_p3_0123"}, 3),
        ({"previous_response_id": "resp_p3_0", "input": [{"type": "item_reference"}]}, 3),
        ({"input": [{"role": "user"}, {"type": "item_reference", "id": "msg_p4_0"}]}, 4),
        ({"input": [{"type": "item_reference", "id": "msg_p99_0"}]}, None),
        ({"input": "resp_p3_0123"}, None),
        ({"input": [{"id": "msg_p3_0123", "type": "message"}]}, None),
        ({"input": ["resp_p3_0123", 7, None]}, None),
        ({"metadata": {"of": "resp_p3_0123"}}, None),
        (["resp_p3_0123"], None),
    ],
)
def test_a_body_belongs_to_what_it_names(body: object, holder: int | None) -> None:
    assert holder_in(json.dumps(body).encode(), PLACE) == holder


@pytest.mark.parametrize(
    "body",
    [b"", b'{"previous_response_id": "resp_p3_', b'["resp_p3_"' + b"[" * 100_000, b'"a_p3_\xff"'],
)
def test_a_body_that_is_no_json_belongs_nowhere(body: bytes) -> None:
    assert holder_in(body, PLACE) is None
