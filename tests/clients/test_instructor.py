"""`instructor`: models of pydantic by tools and by JSON schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

instructor = pytest.importorskip("instructor", reason="the extra 'clients' is not installed")

if TYPE_CHECKING:
    from tests.clients.conftest import Served

pytestmark = pytest.mark.filterwarnings("default")
"""What others' packages warn of is theirs."""


class Knot(BaseModel):
    """A knot and what it holds; a small model would go on with keys of its own."""

    model_config = ConfigDict(extra="forbid")

    name: Literal["bowline", "clove hitch", "figure eight"]
    rope: int = Field(ge=0, le=99)


@pytest.mark.parametrize("mode", ["TOOLS", "TOOLS_STRICT", "JSON_SCHEMA"])
def test_a_model_comes_back(served: Served, mode: str) -> None:
    with openai.OpenAI(base_url=served.api, api_key=served.key) as raw:
        client = instructor.from_openai(raw, mode=getattr(instructor.Mode, mode))
        knot = client.chat.completions.create(
            model=served.model,
            messages=[{"role": "user", "content": "Tie a knot."}],
            response_model=Knot,
            max_retries=0,
            max_tokens=200,
        )
    assert isinstance(knot, Knot)
