"""Token counts, as OpenAI reports them."""

from __future__ import annotations

import msgspec


class PromptTokensDetails(msgspec.Struct):
    """Where prompt tokens came from."""

    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct):
    """What output tokens were used for."""

    reasoning_tokens: int = 0


class Usage(msgspec.Struct):
    """Tokens of one API call, all its prompts and choices together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> Usage:
        """Make a usage from its three counts."""
        return cls(
            prompt_tokens,
            completion_tokens,
            prompt_tokens + completion_tokens,
            PromptTokensDetails(cached_tokens),
            CompletionTokensDetails(),
        )
