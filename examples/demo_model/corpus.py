"""The corpus of the demo model: an endless row of documents that depends only on a seed."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from world import calendar_words, counting, facts, refusals, smalltalk, stories
from world.base import Document, Turn
from world.noise import roughen

_TOPICS = (facts.ask, counting.ask, calendar_words.ask, smalltalk.ask, refusals.ask, stories.ask)
_WEIGHTS = (9.0, 5.0, 3.0, 1.6, 4.5, 2.6)
_PROSE = (stories.prose, facts.prose, counting.prose)
_SYSTEM = (
    "You are a helpful assistant.",
    "You are the Windlass demo model.",
    "You are a small model.",
    "Answer in short sentences.",
    "Be polite.",
    "You are a friendly assistant. Answer briefly.",
)


def _turn(rng: Random) -> Turn:
    question, answer = rng.choices(_TOPICS, _WEIGHTS)[0](rng)
    return roughen(rng, question), answer


def _talk(rng: Random) -> list[Turn]:
    count = rng.choices((1, 2, 3, 4), (6, 3, 2, 1))[0]
    turns = [_turn(rng) for _ in range(count)]
    kind = rng.random()
    if kind < 0.05:
        first, later = smalltalk.meet(rng)
        turns = [first, *turns[:2], later] if rng.random() < 0.6 else [first, later]
    elif kind < 0.06:
        turns.append(smalltalk.stranger(rng))
    elif kind < 0.09:
        turns = [stories.ask(rng), stories.again(rng)]
    return turns


def document(rng: Random) -> Document:
    """Make one document: mostly a conversation, sometimes plain text."""
    if rng.random() < 0.09:
        return Document(text=rng.choices(_PROSE, (8, 2, 1))[0](rng))
    system = rng.choice(_SYSTEM) if rng.random() < 0.2 else ""
    return Document(turns=tuple(_talk(rng)), system=system)


def documents(seed: int) -> Iterator[Document]:
    """Make documents without end; the same seed gives the same documents."""
    rng = Random(seed)
    while True:
        yield document(rng)
