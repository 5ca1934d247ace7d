"""Short stories: a character, a place, a thing, what happens, and an end."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from world import story_words as words
from world.base import Turn, article, capital, fill
from world.story_plots import ENDINGS, PLOTS


@dataclass(frozen=True)
class Cast:
    """Who and what a story is about."""

    hero: str
    name: str
    thing: str
    place: str
    friend: str


def _names(hero: str) -> tuple[str, ...]:
    if hero in words.WOMEN:
        return words.FEMALE
    return words.MALE if hero in words.MEN else words.NAMES


def cast(rng: Random) -> Cast:
    """Choose the words of one story."""
    hero = rng.choice(words.CHARACTERS)
    friend = rng.choice([word for word in words.FRIENDS if word != hero])
    thing = f"{rng.choice(words.ADJECTIVES)} {rng.choice(words.THINGS)}"
    return Cast(hero, rng.choice(_names(hero)), thing, rng.choice(words.PLACES), friend)


def tell(rng: Random, who: Cast) -> str:
    """Write the story of a cast, about 100 to 200 tokens long."""
    female = who.name in words.FEMALE
    slots = {
        "hero": who.hero,
        "a_hero": article(who.hero),
        "a_trait_hero": article(f"{rng.choice(words.TRAITS)} {who.hero}"),
        "name": who.name,
        "he": "she" if female else "he",
        "He": "She" if female else "He",
        "his": "her" if female else "his",
        "him": "her" if female else "him",
        "thing": who.thing,
        "a_thing": article(who.thing),
        "noun": who.thing.split()[-1],
        "place": who.place,
        "friend": who.friend,
        "a_friend": article(who.friend),
        "hiding": rng.choice(words.HIDING),
        "weather": rng.choice(words.WEATHER),
        "food": rng.choice(words.FOOD),
        "lesson": rng.choice(words.LESSONS),
    }
    opening = (
        "Once upon a time there was {a_trait_hero} named {name} who lived {place}.",
        "Once upon a time {a_trait_hero} named {name} lived {place}.",
        "Once there was {a_trait_hero} who lived {place}. {His} name was {name}.",
        "Long ago, {place}, there lived {a_trait_hero} named {name}.",
    )
    slots["His"] = capital(slots["his"])
    parts = [rng.choice(opening), *(rng.choice(step) for step in rng.choice(PLOTS))]
    parts.append(rng.choice(ENDINGS))
    return " ".join(part.format(**slots) for part in parts if part)


_WISHES = (
    "Tell me a story about {x}.",
    "Tell me a story about {x}.",
    "Tell a story about {x}.",
    "Please tell me a story about {x}.",
    "Can you tell me a story about {x}?",
    "I would like a story about {x}.",
    "Tell me a short story about {x}.",
    "Write a story about {x}.",
    "Write a short story about {x}.",
    "Do you know a story about {x}?",
    "A story about {x}, please.",
    "Story about {x}",
)
_ANY = (
    "Tell me a story.",
    "Tell me a story, please.",
    "Tell a story.",
    "Tell me a short story.",
    "Can you tell me a story?",
    "I would like to hear a story.",
    "Do you know a story?",
    "Write a story.",
    "A story, please.",
    "Tell me a long story.",
    "Tell me a bedtime story.",
)
AGAIN = (
    "Tell me another story.",
    "Another one, please.",
    "Tell me another one.",
    "One more story, please.",
    "Another story.",
)


def ask(rng: Random) -> Turn:
    """Make one wish for a story, with the story."""
    who = cast(rng)
    kind = rng.random()
    subject = article(who.hero)
    if kind > 0.9:
        subject += f" named {who.name}"
    elif kind > 0.8:
        subject += f" and {article(who.thing)}"
    elif kind > 0.75:
        subject += f" {who.place}"
    wish = rng.choice(_ANY) if kind < 0.2 else fill(rng, _WISHES, x=subject)
    # To name the subject first makes it easy for a small model to keep to it.
    return wish, f"Here is a story about {subject}. {tell(rng, who)}"


def again(rng: Random) -> Turn:
    """Make a wish for one more story, with the story."""
    who = cast(rng)
    return rng.choice(AGAIN), f"Here is a story about {article(who.hero)}. {tell(rng, who)}"


def prose(rng: Random) -> str:
    """Write one story as plain text."""
    return tell(rng, cast(rng))
