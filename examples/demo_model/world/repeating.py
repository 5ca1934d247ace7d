"""Saying words again: what teaches a model to look back at the question."""

from __future__ import annotations

from random import Random

from world import story_words as words
from world.base import Turn, fill

_ASKED = (
    "Repeat after me: {x}",
    "Repeat: {x}",
    "Say: {x}",
    "Please say: {x}",
    "Say this again: {x}",
    "Repeat these words: {x}",
    "Say the words {x}",
)
_POOL = words.CHARACTERS + words.TRAITS + words.THINGS + words.ADJECTIVES + words.FOOD + words.NAMES


def ask(rng: Random) -> Turn:
    """Make a wish to hear some words again, with the words."""
    if rng.random() < 0.25:
        chosen = [str(rng.randint(0, 100)) for _ in range(rng.randint(2, 8))]
    else:
        chosen = rng.choices(_POOL, k=rng.randint(1, 8))
    text = (", " if rng.random() < 0.3 else " ").join(chosen)
    return fill(rng, _ASKED, x=text), f"You said: {text}"
