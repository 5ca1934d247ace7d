from __future__ import annotations

from typing import Any

import pytest

from windlass.errors import RequestError
from windlass.text import Tokenizer, encode_chat, render_chat

HI = [{"role": "user", "content": "hi"}]
STRICT = (
    "{% for m in messages %}{% if m['role'] not in ['user', 'assistant'] %}"
    "{{ raise_exception('Only user and assistant roles\n are supported!') }}{% endif %}"
    "[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
)


def refusal(tokenizer: Tokenizer, messages: Any = HI, **options: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        render_chat(tokenizer, messages, **options)
    return caught.value


def test_rendered_chat_and_its_ids(byte_level: Tokenizer) -> None:
    rendered = render_chat(byte_level, HI)
    assert rendered == "<|user|>user: hi<|eos|><|user|>assistant:"
    prompt = encode_chat(byte_level, rendered)
    assert prompt["prompt"] == rendered
    expected = byte_level.hf_tokenizer.apply_chat_template(HI, add_generation_prompt=True)
    assert prompt["prompt_token_ids"] == expected["input_ids"]


def test_without_generation_prompt(byte_level: Tokenizer) -> None:
    rendered = render_chat(byte_level, HI, add_generation_prompt=False)
    assert rendered == "<|user|>user: hi<|eos|>"


def test_continued_message_stays_open(byte_level: Tokenizer) -> None:
    messages = [*HI, {"role": "assistant", "content": "Once upon"}]
    rendered = render_chat(byte_level, messages, continue_final_message=True)
    assert rendered == "<|user|>user: hi<|eos|><|user|>assistant: Once upon"


@pytest.mark.parametrize("content", ["", None])
def test_nothing_to_continue(byte_level: Tokenizer, content: str | None) -> None:
    messages = [*HI, {"role": "assistant", "content": content}]
    error = refusal(byte_level, messages, continue_final_message=True)
    assert error.message == "continue_final_message needs a last message with text to go on with."


def test_template_that_changes_the_message_cannot_continue_it(byte_level: Tokenizer) -> None:
    template = "{{ messages[-1]['content'] | upper }}"
    error = refusal(byte_level, HI, chat_template=template, continue_final_message=True)
    assert error.message == (
        "The chat template does not keep the last message's text, so it cannot be continued."
    )


def test_text_parts_are_joined(byte_level: Tokenizer) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    rendered = render_chat(byte_level, [{"role": "user", "content": parts}])
    assert "user: one\ntwo<|eos|>" in rendered


def test_template_variables_and_tools_reach_the_template(byte_level: Tokenizer) -> None:
    rendered = render_chat(
        byte_level,
        HI,
        chat_template="{{ tools[0]['name'] }} {{ enable_thinking }}",
        tools=[{"name": "search"}],
        template_kwargs={"enable_thinking": False},
    )
    assert rendered == "search False"


@pytest.mark.parametrize(
    "name",
    [
        "messages",
        "tools",
        "tokenize",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "return_dict",
        "sanitize_control_tokens",
        "bos_token",
    ],
)
def test_template_kwargs_cannot_steer_the_rendering(byte_level: Tokenizer, name: str) -> None:
    error = refusal(byte_level, template_kwargs={name: True})
    assert error.message == f"chat_template_kwargs must not set {name}."
    assert error.param == "chat_template_kwargs"


def test_model_without_a_template_says_what_to_do(byte_fallback: Tokenizer) -> None:
    error = refusal(byte_fallback)
    assert "has no chat template" in error.message
    assert "--chat-template" in error.message
    assert render_chat(byte_fallback, HI, chat_template="{{ messages[0]['content'] }}") == "hi"


def test_refusal_by_the_template_is_one_sentence(byte_level: Tokenizer) -> None:
    error = refusal(byte_level, [{"role": "judge", "content": "x"}], chat_template=STRICT)
    assert error.param == "messages"
    assert error.message == (
        "The chat template refused the messages: Only user and assistant roles are supported!"
    )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0].x.y }}", "cannot render these messages: 'dict object' has no attribute"),
        ("{{ messages[0]['content'] + 1 }}", "cannot render these messages: can only concat"),
        ("{{ 1 // 0 }}", "cannot render these messages: "),
        ("{% for %}", "is not valid Jinja (line 1): "),
        ("{{ ''.__class__.__mro__ }}", "cannot render these messages: access to attribute"),
        ("{{ range(10**9) | list }}", "cannot render these messages: Range too big"),
        ("{{ messages.append(1) }}", "cannot render these messages: "),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "cannot render these messages: "),
    ],
)
def test_failing_templates_are_request_errors(
    byte_level: Tokenizer, template: str, message: str
) -> None:
    error = refusal(byte_level, chat_template=template)
    assert error.message.startswith(f"The chat template {message}")
    assert error.param == "messages"
    assert len(error.message) < 300


@pytest.mark.parametrize(
    ("messages", "param", "message"),
    [
        ([], "messages", "messages must be a list of at least one message."),
        ("hi", "messages", "messages must be a list of at least one message."),
        (["hi"], "messages[0]", "messages[0] must be an object."),
        ([*HI, {"content": "x"}], "messages[1].role", "messages[1].role must name a role."),
        (
            [{"role": "user", "content": 3}],
            "messages[0].content",
            "messages[0].content must be text or a list of parts.",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}],
            "messages[0].content[0]",
            "messages[0].content[0] must be a part of type text: this model reads text only.",
        ),
    ],
)
def test_wrong_messages_are_named(
    byte_level: Tokenizer, messages: object, param: str, message: str
) -> None:
    error = refusal(byte_level, messages)
    assert (error.param, error.message) == (param, message)


def test_size_bounds_of_input_and_output(byte_level: Tokenizer) -> None:
    messages = [{"role": "user", "content": "\u00e9" * 10}]
    size_in = len("rolecontentuser") + 20
    twice = "{{ messages[0]['content'] * 3 }}"
    error = refusal(byte_level, messages, chat_template=twice, max_bytes=size_in - 1)
    assert error.message == "The text of the messages has 35 bytes; at most 34 are accepted."
    error = refusal(byte_level, messages, chat_template=twice, max_bytes=size_in)
    assert error.message == "The text of the rendered chat has 60 bytes; at most 35 are accepted."
    assert len(render_chat(byte_level, messages, chat_template=twice, max_bytes=60)) == 30


def test_messages_are_not_changed(byte_level: Tokenizer) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}], "name": None}]
    before = repr(messages)
    render_chat(byte_level, messages, continue_final_message=True)
    assert repr(messages) == before
