"""Chat messages to prompt text, through the model's own template.

Templates run in transformers' immutable Jinja sandbox: no access to Python's internals, `range`
limited to 100,000. What is bounded here is the size of what goes in and of what comes out
(`max_bytes`). Run time is not: a template that loops over its input takes as long as it takes, and
a thread cannot be stopped. So only templates that the operator chose may be rendered, and a server
renders in a worker thread; a template sent by a client needs a process of its own.

Special tokens written in a message (say "<|im_end|>") become those tokens, as in transformers.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from windlass.errors import RequestError
from windlass.text.prompt import TokensPrompt
from windlass.text.tokenizer import Tokenizer

_MAX_REASON = 200


def render_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    tools: list[dict[str, Any]] | None = None,
    chat_template: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    max_bytes: int | None = None,
) -> str:
    """The prompt for these messages; text parts of one message are joined by line feeds.

    `continue_final_message` leaves the last message open for the model to go on with (the
    generation prompt is then left out). `template_kwargs` reach the template as variables.
    `max_bytes` bounds the strings that go in and the text that comes out, each in UTF-8 bytes.

    Raises:
        RequestError: no template, messages that it refuses or cannot render, or too much text.
    """
    plain = _check_messages(messages)
    variables = dict(template_kwargs or {})
    _check_variables(tokenizer, variables)
    _check_size("the messages", _strings([plain, tools, variables]), max_bytes)
    if chat_template is None and not tokenizer.has_chat_template:
        raise RequestError(
            "This model has no chat template: name one with --chat-template (in Python: "
            "chat_template), or ask for a completion of a plain prompt.",
            param="messages",
        )
    if continue_final_message and not plain[-1].get("content"):
        raise RequestError(
            "continue_final_message needs a last message with text to go on with.",
            param="messages",
        )
    rendered = _render(
        tokenizer,
        plain,
        tools=tools,
        chat_template=chat_template,
        add_generation_prompt=add_generation_prompt and not continue_final_message,
        continue_final_message=continue_final_message,
        **variables,
    )
    _check_size("the rendered chat", [rendered], max_bytes)
    return rendered


def encode_chat(tokenizer: Tokenizer, rendered: str) -> TokensPrompt:
    """The prompt of a rendered chat; its special tokens come from the template, none are added."""
    ids = tokenizer.encode(rendered, add_special_tokens=False)
    return {"prompt_token_ids": ids, "prompt": rendered}


def _render(
    tokenizer: Tokenizer,
    messages: list[dict[str, Any]],
    **options: Any,  # noqa: ANN401
) -> str:
    import jinja2

    failures = (
        jinja2.TemplateError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    )
    try:
        rendered: str = tokenizer.hf_tokenizer.apply_chat_template(
            messages, tokenize=False, **options
        )
    except failures as error:
        raise RequestError(
            _explain(error, options["continue_final_message"]), param="messages"
        ) from error
    return rendered


def _explain(error: Exception, continuing: bool) -> str:
    """One sentence that repeats nothing of the conversation but what the template itself says."""
    import jinja2

    if continuing and isinstance(error, ValueError):
        return "The chat template does not keep the last message's text, so it cannot be continued."
    reason = " ".join(str(error).split())[:_MAX_REASON] or type(error).__name__
    if reason[-1] not in ".!?":
        reason += "."
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"The chat template is not valid Jinja (line {error.lineno}): {reason}"
    # A template's own raise_exception arrives as exactly this class.
    if type(error) is jinja2.TemplateError:
        return f"The chat template refused the messages: {reason}"
    return f"The chat template cannot render these messages: {reason}"


def _check_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(messages, str | Mapping) or not messages:
        raise RequestError("messages must be a list of at least one message.", param="messages")
    return [_check_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _check_message(message: Mapping[str, Any], param: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise RequestError(f"{param} must be an object.", param=param, code="invalid_type")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise RequestError(f"{param}.role must name a role.", param=f"{param}.role")
    content = message.get("content")
    if content is None or isinstance(content, str):
        return dict(message)
    return {**message, "content": _join_text_parts(content, f"{param}.content")}


def _join_text_parts(parts: object, param: str) -> str:
    if not isinstance(parts, list):
        raise RequestError(
            f"{param} must be text or a list of parts.", param=param, code="invalid_type"
        )
    texts = []
    for i, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise RequestError(
                f"{param}[{i}] must be a part of type text: this model reads text only.",
                param=f"{param}[{i}]",
            )
        texts.append(part["text"])
    return "\n".join(texts)


def _check_variables(tokenizer: Tokenizer, variables: dict[str, Any]) -> None:
    """Refuse names that would steer the rendering itself, whatever transformers adds to them."""
    hf_tokenizer = tokenizer.hf_tokenizer
    options = inspect.signature(hf_tokenizer.apply_chat_template).parameters
    reserved = {"messages", "self", *options, *hf_tokenizer.special_tokens_map}
    taken = sorted(reserved & variables.keys())
    if taken:
        raise RequestError(
            f"chat_template_kwargs must not set {', '.join(taken)}.", param="chat_template_kwargs"
        )


def _strings(value: object) -> Iterator[str]:
    """Every string in a JSON-like value, keys included."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, str):
            yield current
        elif isinstance(current, Mapping):
            waiting.extend(current.keys())
            waiting.extend(current.values())
        elif isinstance(current, list | tuple):
            waiting.extend(current)


def _check_size(what: str, texts: Iterable[str], max_bytes: int | None) -> None:
    if max_bytes is None:
        return
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    if size > max_bytes:
        raise RequestError(
            f"The text of {what} has {size} bytes; at most {max_bytes} are accepted.",
            param="messages",
            code="context_length_exceeded",
        )
