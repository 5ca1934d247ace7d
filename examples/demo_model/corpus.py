"""The corpus of the demo model: an endless row of documents that depends only on a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from world import calendar_words, counting, facts, refusals, repeating, smalltalk, stories
from world.base import Document, Turn
from world.noise import roughen

_TOPICS: dict[Callable[[Random], Turn], float] = {
    facts.ask: 6.5,
    counting.ask: 7.0,
    calendar_words.ask: 3.0,
    smalltalk.ask: 1.6,
    refusals.ask: 4.0,
    stories.ask: 3.5,
    repeating.ask: 4.0,
}
_PROSE: dict[Callable[[Random], str], float] = {
    stories.prose: 4.0,
    facts.prose: 1.0,
    counting.prose: 1.0,
    counting.sums: 5.0,
}
_SYSTEM = (
    "You are a helpful assistant.",
    "You are the Windlass demo model.",
    "You are a small model.",
    "Answer in short sentences.",
    "Be polite.",
    "You are a friendly assistant. Answer briefly.",
)


def _turn(rng: Random) -> Turn:
    topic = rng.choices(list(_TOPICS), list(_TOPICS.values()))[0]
    question, answer = topic(rng)
    # Words to say again must stay as they are, or the answer would not be the same.
    rough = question if ": " in question else roughen(rng, question)
    return rough, answer


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
    if rng.random() < 0.14:
        kind = rng.choices(list(_PROSE), list(_PROSE.values()))[0]
        return Document(text=kind(rng))
    system = rng.choice(_SYSTEM) if rng.random() < 0.2 else ""
    return Document(turns=tuple(_talk(rng)), system=system)


def documents(seed: int) -> Iterator[Document]:
    """Make documents without end; the same seed gives the same documents."""
    rng = Random(seed)
    while True:
        yield document(rng)
