"""What a call brings to the engine, as far as it is known before."""

from __future__ import annotations

import math
from dataclasses import dataclass

from windlass.text import Prompt

_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Size:
    """Sequences, tokens of all prompts, most tokens of all answers (0 where not known)."""

    sequences: int
    prompt_tokens: int
    max_tokens: int = 0


def estimated_tokens(prompt: Prompt) -> int:
    """Return the tokens of a prompt; of a text that nobody has read yet, about as many."""
    if isinstance(prompt, list):
        return len(prompt)
    if not isinstance(prompt, str):
        ids = prompt.get("prompt_token_ids")
        if isinstance(ids, list):
            return len(ids)
        prompt = prompt["prompt"]
    return math.ceil(len(prompt) / _CHARACTERS_PER_TOKEN)
