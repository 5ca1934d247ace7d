"""Questions and answers about Windlass and about serving language models."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from world.base import Turn, capital, fill
from world.fact_table import FACTS, Fact

ASK_ABOUT = (
    "What is {s}?",
    "What is {s}?",
    "What is {s}?",
    "Explain {s}.",
    "Explain {s} to me, please.",
    "Tell me about {s}.",
    "Can you explain {s}?",
    "What can you tell me about {s}?",
    "Do you know what {s} is?",
    "How does {s} work?",
    "How would you explain {s}?",
    "What does {s} mean?",
    "What do you know about {s}?",
    "Describe {s}.",
    "Describe {s} in a few words.",
    "Please explain {s}.",
    "I want to know what {s} is.",
    "I have heard of {s}. What is it?",
    "What's {s}?",
    "What is {s} good for?",
    "Why do we need {s}?",
    "{S}?",
)

OPENERS = ("", "", "", "", "", "", "Good question. ", "Gladly. ")


@dataclass(frozen=True)
class _Weighted:
    """The facts, with the ones about Windlass itself drawn more often."""

    facts: tuple[Fact, ...]
    weights: tuple[float, ...]


_TABLE = _Weighted(FACTS, tuple(fact.weight for fact in FACTS))


def question(rng: Random, fact: Fact) -> str:
    """Ask for a fact, by its own question or by one that fits any subject."""
    if fact.questions and (not fact.subjects or rng.random() < 0.45):
        return rng.choice(fact.questions)
    subject = rng.choice(fact.subjects)
    return fill(rng, ASK_ABOUT, s=subject, S=capital(subject))


def ask(rng: Random) -> Turn:
    """Make one question about Windlass with its answer."""
    fact = rng.choices(_TABLE.facts, _TABLE.weights)[0]
    return question(rng, fact), rng.choice(OPENERS) + rng.choice(fact.answers)


def prose(rng: Random) -> str:
    """Write a few facts one after the other as plain text."""
    chosen = rng.sample([fact for fact in FACTS if fact.subjects], k=rng.randint(2, 4))
    return " ".join(rng.choice(fact.answers) for fact in chosen)
