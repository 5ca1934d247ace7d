"""What users do to a sentence: small letters, lost punctuation and typing errors."""

from __future__ import annotations

from random import Random

_BEFORE = ("", "", "", "", "", "Hey, ", "Please ", "So, ", "Well, ", "ok ", "Hello. ", "Hi! ")


def _mistype(rng: Random, text: str) -> str:
    places = [i for i in range(len(text) - 1) if text[i : i + 2].isalpha()]
    if not places:
        return text
    i = rng.choice(places)
    kind = rng.randrange(3)
    if kind == 0:
        return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    if kind == 1:
        return text[:i] + text[i + 1 :]
    return text[:i] + text[i] + text[i:]


def roughen(rng: Random, text: str) -> str:
    """Write a question as somebody in a hurry would, or leave it as it is."""
    if rng.random() < 0.45:
        return text
    if rng.random() < 0.12:
        text = rng.choice(_BEFORE) + text
    if rng.random() < 0.4:
        text = text.rstrip(".?!")
    elif rng.random() < 0.15:
        text = text.rstrip(".?!") + rng.choice(("?", "!", "??", " ?", ".", "..."))
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        text = _mistype(rng, text)
    kind = rng.random()
    if kind < 0.5:
        return text.lower()
    return text.upper() if kind < 0.54 else text
