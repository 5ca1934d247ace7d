"""Log-probabilities in the two shapes that OpenAI has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from windlass.request import Logprob, TokenLogprobs
from windlass.text import Tokenizer
from windlass_server.protocol.chat import TokenLogprob, TopLogprob
from windlass_server.protocol.completions import CompletionLogprobs

LOWEST = -9999.0
"""What OpenAI writes for a probability of about zero; JSON has no infinity."""


def _value(entry: Logprob) -> float:
    return max(entry.logprob, LOWEST)


def _most_probable(entries: TokenLogprobs, count: int) -> list[tuple[int, Logprob]]:
    return sorted(entries.items(), key=lambda item: -item[1].logprob)[:count]


def chat_logprobs(
    positions: Sequence[TokenLogprobs],
    count: int,
    tokenizer: Tokenizer,
    *,
    as_ids: bool = False,
) -> list[TokenLogprob]:
    """Return one entry per output token, each with the `count` most probable tokens.

    With `as_ids` a token's text is replaced by "token_id:" and its id.
    """

    def described(token_id: int, entry: Logprob) -> tuple[str, float, list[int]]:
        if as_ids:
            return f"token_id:{token_id}", _value(entry), list(tokenizer.token_bytes(token_id))
        return tokenizer.token_text(token_id), _value(entry), list(tokenizer.token_bytes(token_id))

    result = []
    for entries in positions:
        token_id, chosen = next(iter(entries.items()))
        top = [TopLogprob(*described(*other)) for other in _most_probable(entries, count)]
        result.append(TokenLogprob(*described(token_id, chosen), top))
    return result


def extend_completion_logprobs(
    logprobs: CompletionLogprobs,
    token_ids: Sequence[int],
    positions: Sequence[TokenLogprobs | None],
    offset: int,
    tokenizer: Tokenizer,
    *,
    as_ids: bool = False,
) -> int:
    """Append tokens to `logprobs` and return the character offset after them.

    A position without numbers (the first prompt token) has null for them. Of several tokens with
    the same text the most probable one is kept, the chosen one before all. With `as_ids` a
    token's text is replaced by "token_id:" and its id.
    """

    def shown(token_id: int) -> str:
        return f"token_id:{token_id}" if as_ids else tokenizer.token_text(token_id)

    for token_id, entries in zip(token_ids, positions, strict=False):
        logprobs.text_offset.append(offset)
        logprobs.tokens.append(shown(token_id))
        logprobs.token_logprobs.append(None if entries is None else _value(entries[token_id]))
        logprobs.top_logprobs.append(None if entries is None else _by_text(entries, shown))
        offset += len(tokenizer.token_text(token_id))
    return offset


def _by_text(entries: TokenLogprobs, shown: Callable[[int], str]) -> dict[str, float]:
    top: dict[str, float] = {}
    for token_id, entry in entries.items():
        top.setdefault(shown(token_id), _value(entry))
    return top
