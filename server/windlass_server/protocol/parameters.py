"""What becomes of the keys of a body that are not declared as fields.

A key is known and has no influence here (accepted), known and not supported (refused unless it
asks for nothing), or unknown (reported, or refused with `--strict-params`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from windlass_server.errors import ApiError, unsupported
from windlass_server.protocol.fields import Body

MAX_REPORTED = 10

_WITHOUT_INFLUENCE = frozenset(
    {
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "store",
    }
)

_NOTHING: tuple[Any, ...] = (None, False, [], {}, "")

_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "documents": _NOTHING,
    "length_penalty": (None, 1, 1.0),
    "logits_processors": _NOTHING,
    "min_completion_tokens": _NOTHING,
    "prompt_embeds": _NOTHING,
    "use_beam_search": _NOTHING,
    "verbosity": (None, "medium"),
}
"""Parameter -> the values that ask for nothing, and so are accepted."""

CHAT_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    **_UNSUPPORTED,
    "audio": _NOTHING,
    "best_of": (None, 1),
    "echo": _NOTHING,
    "function_call": (None, "none"),
    "functions": _NOTHING,
    "mm_processor_kwargs": _NOTHING,
    "modalities": (None, [], ["text"]),
    "suffix": _NOTHING,
    "web_search_options": (None,),
}

COMPLETION_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    **_UNSUPPORTED,
    "chat_template": _NOTHING,
    "service_tier": (None, "auto", "default"),
    "suffix": (None,),
    "thinking_token_budget": _NOTHING,
    "tools": _NOTHING,
}

RESPONSES_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    **_UNSUPPORTED,
    "conversation": _NOTHING,
    "messages": _NOTHING,
    "moderation": _NOTHING,
    "prompt": _NOTHING,
}

MESSAGES_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "container": _NOTHING,
    "mcp_servers": _NOTHING,
    "n": (None, 1),
}

EMBEDDING_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "add_special_tokens": (None, True),
    "chat_template": _NOTHING,
    "embed_dtype": (None, "float32"),
    "endianness": (None, "native", "little"),
    "messages": _NOTHING,
    "mm_processor_kwargs": _NOTHING,
}

SCORE_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "max_chunks_per_doc": _NOTHING,
    "mm_processor_kwargs": _NOTHING,
    "rank_fields": (None, [], ["text"]),
    "use_activation": (None, True),
}


def _asks_for_nothing(value: object, accepted: tuple[Any, ...]) -> bool:
    return any(type(value) is type(a) and value == a for a in accepted)


def unknown_parameters(body: Body, refused: Mapping[str, tuple[Any, ...]]) -> list[str]:
    """Return the keys of `body` that nobody knows, as paths.

    Raises:
        ApiError: 400, a key of `refused` asks for something.
    """
    unknown = []
    for name, value in (body.model_extra or {}).items():
        if name in refused:
            if not _asks_for_nothing(value, refused[name]):
                raise unsupported(name)
        elif name not in _WITHOUT_INFLUENCE:
            unknown.append(name)
    return unknown + [path for field, inner in _inner(body) for path in _keys(field, inner)]


_PLAIN = (int, str)


def _inner(body: Body) -> Iterator[tuple[str, Body]]:
    for name in type(body).model_fields:
        value = getattr(body, name)
        if isinstance(value, Body):
            yield name, value
        elif isinstance(value, list):
            for index, item in enumerate(value):
                # Of 300,000 token ids none is worth asking pydantic what it is.
                if type(item) not in _PLAIN and isinstance(item, Body):
                    yield f"{name}[{index}]", item


def _keys(path: str, body: Body) -> list[str]:
    own = [f"{path}.{name}" for name in body.model_extra or {}]
    return own + [key for name, inner in _inner(body) for key in _keys(f"{path}.{name}", inner)]


def printable(names: list[str]) -> str:
    """List at most `MAX_REPORTED` parameter names so that they fit a header and a log line."""
    shown = [
        # A header cannot end with a space, so that a name without characters needs some.
        "".join(c if c.isascii() and (c.isalnum() or c in "_-.[]") else "?" for c in name[:64])
        or "''"
        for name in names[:MAX_REPORTED]
    ]
    return ", ".join(shown) + (", ..." if len(names) > MAX_REPORTED else "")


def unknown_parameter(names: list[str]) -> ApiError:
    """Return the 400 of `--strict-params`."""
    text = f"Unknown parameter: {printable(names)}."
    return ApiError(400, text, param=printable(names[:1]), code="unknown_parameter")
