"""`langchain-openai`: chat, streams with usage, structured output, tools, errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
import pytest
from pydantic import BaseModel, Field

pytest.importorskip("langchain_openai", reason="the extra 'clients' is not installed")

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

if TYPE_CHECKING:
    from tests.clients.conftest import Served

pytestmark = pytest.mark.filterwarnings("default")
"""What others' packages warn of is theirs."""

MESSAGES = [SystemMessage("You are terse."), HumanMessage("Hello! Who are you?")]


class Rope(BaseModel):
    """A rope on a windlass."""

    material: str = Field(max_length=8)
    metres: int


@pytest.fixture(scope="module")
def chat(served: Served) -> Any:
    return ChatOpenAI(
        model=served.model, base_url=served.api, api_key=served.key, temperature=0, max_tokens=64
    )


def test_it_invokes_and_counts(chat: Any) -> None:
    answer = chat.invoke(MESSAGES)
    assert answer.content
    assert answer.usage_metadata["output_tokens"] > 0


def test_a_stream_is_the_whole_answer_and_has_usage(chat: Any) -> None:
    chunks = list(chat.stream(MESSAGES, stream_usage=True))
    assert "".join(chunk.content for chunk in chunks) == chat.invoke(MESSAGES).content
    assert any(chunk.usage_metadata for chunk in chunks)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(chat: Any, method: str) -> None:
    rope = chat.with_structured_output(Rope, method=method).invoke(MESSAGES)
    assert isinstance(rope, Rope)


def test_json_mode(chat: Any) -> None:
    """The demo model may not come to an end, which langchain tells by the client's own error."""
    model = chat.with_structured_output(None, method="json_mode", include_raw=True)
    try:
        text = model.invoke(MESSAGES)["raw"].content
    except openai.LengthFinishReasonError as error:
        text = error.completion.choices[0].message.content or ""
    assert text.startswith("{")


def test_a_tool_is_called(chat: Any) -> None:
    @tool
    def haul(metres: int) -> str:
        """Haul so many metres of rope."""
        return f"{metres} m hauled"

    answer = chat.bind_tools([haul], tool_choice="haul").invoke(MESSAGES)
    [call] = answer.tool_calls
    assert call["name"] == "haul"
    assert isinstance(call["args"]["metres"], int)


def test_a_prompt_too_long_is_its_context_overflow(chat: Any) -> None:
    with pytest.raises(Exception, match="context_length_exceeded"):
        chat.invoke([HumanMessage("rope " * 5000)])
