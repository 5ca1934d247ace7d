"""Days, months, seasons, colours, opposites and letters: small closed sets of words."""

from __future__ import annotations

from random import Random

from world.base import Turn, fill

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
SEASONS = ("spring", "summer", "autumn", "winter")
LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
ORDINALS = (
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
)
COLOURS = {
    "the sky": "blue",
    "grass": "green",
    "snow": "white",
    "the sun": "yellow",
    "a lemon": "yellow",
    "a banana": "yellow",
    "a cherry": "red",
    "a strawberry": "red",
    "blood": "red",
    "coal": "black",
    "the night": "black",
    "milk": "white",
    "a leaf": "green",
    "an orange": "orange",
    "a carrot": "orange",
    "an elephant": "grey",
    "a frog": "green",
    "a raven": "black",
    "a swan": "white",
    "the sea": "blue",
    "chocolate": "brown",
    "wood": "brown",
    "a plum": "purple",
    "a pig": "pink",
    "a tomato": "red",
    "gold": "yellow",
    "rain clouds": "grey",
    "paper": "white",
}
MIXES = {
    ("blue", "yellow"): "green",
    ("red", "yellow"): "orange",
    ("red", "blue"): "purple",
    ("red", "white"): "pink",
    ("black", "white"): "grey",
}
OPPOSITES = (
    ("hot", "cold"),
    ("big", "small"),
    ("tall", "short"),
    ("fast", "slow"),
    ("up", "down"),
    ("left", "right"),
    ("day", "night"),
    ("open", "closed"),
    ("full", "empty"),
    ("light", "dark"),
    ("happy", "sad"),
    ("young", "old"),
    ("hard", "soft"),
    ("wet", "dry"),
    ("loud", "quiet"),
    ("strong", "weak"),
    ("rich", "poor"),
    ("early", "late"),
    ("good", "bad"),
    ("yes", "no"),
    ("in", "out"),
    ("near", "far"),
    ("high", "low"),
    ("clean", "dirty"),
    ("begin", "end"),
    ("push", "pull"),
    ("summer", "winter"),
    ("black", "white"),
    ("first", "last"),
    ("thick", "thin"),
    ("deep", "shallow"),
    ("always", "never"),
    ("win", "lose"),
    ("awake", "asleep"),
    ("brave", "afraid"),
    ("wide", "narrow"),
)


def _list(words: tuple[str, ...]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1]


def _after(rng: Random) -> Turn:
    names = rng.choice((DAYS, MONTHS, SEASONS))
    place = rng.randrange(len(names))
    here, later = names[place], names[(place + 1) % len(names)]
    kind = {len(DAYS): "day", len(MONTHS): "month", len(SEASONS): "season"}[len(names)]
    if rng.random() < 0.6:
        asked = ("Which {k} comes after {n}?", "What comes after {n}?", "What {k} follows {n}?")
        return fill(rng, asked, k=kind, n=here), f"After {here} comes {later}."
    asked = ("Which {k} comes before {n}?", "What comes before {n}?", "What {k} is before {n}?")
    return fill(rng, asked, k=kind, n=here), f"Before {here} comes {names[place - 1]}."


def _names(rng: Random) -> Turn:
    which = rng.randrange(3)
    asked = ("Name the {k}.", "What are the {k}?", "List the {k}.", "Tell me the {k}.")
    if which == 0:
        kind = rng.choice(("days of the week", "seven days of the week", "days"))
        return fill(rng, asked, k=kind), f"The days of the week are {_list(DAYS)}."
    if which == 1:
        kind = rng.choice(("months of the year", "twelve months", "months"))
        return fill(rng, asked, k=kind), f"The months of the year are {_list(MONTHS)}."
    kind = rng.choice(("seasons", "four seasons", "seasons of the year"))
    return fill(rng, asked, k=kind), f"The seasons are {_list(SEASONS)}."


def _how_many(rng: Random) -> Turn:
    return rng.choice(
        (
            ("How many days are in a week?", "A week has seven days."),
            ("How many months are in a year?", "A year has twelve months."),
            ("How many days does a week have?", "A week has seven days."),
            ("How many months does a year have?", "A year has twelve months."),
            ("How many hours does a day have?", "A day has twenty-four hours."),
            ("How many minutes are in an hour?", "An hour has sixty minutes."),
            ("How many seconds are in a minute?", "A minute has sixty seconds."),
            ("How many seasons are there?", "There are four seasons."),
        )
    )


def _month(rng: Random) -> Turn:
    place = rng.randrange(12)
    name = MONTHS[place]
    if rng.random() < 0.5:
        asked = ("How many days does {n} have?", "How many days are in {n}?", "How long is {n}?")
        return fill(rng, asked, n=name), f"{name} has {LENGTHS[place]} days."
    asked = ("What is the {o} month?", "Which month is the {o}?", "Name the {o} month of the year.")
    answer = f"{name} is the {ORDINALS[place]} month of the year."
    return fill(rng, asked, o=ORDINALS[place]), answer


def _colour(rng: Random) -> Turn:
    colour_word = rng.choice(("colour", "colour", "color"))
    if rng.random() < 0.2:
        (a, b), mixed = rng.choice(list(MIXES.items()))
        a, b = rng.sample((a, b), 2)
        asked: tuple[str, ...] = (
            "What do {a} and {b} make?",
            "What {w} do {a} and {b} make?",
            "What happens if I mix {a} and {b}?",
        )
        return fill(rng, asked, a=a, b=b, w=colour_word), f"{a} and {b} make {mixed}.".capitalize()
    if rng.random() < 0.1:
        answer = "Some colours are red, blue, green, yellow, orange, purple, black and white."
        return fill(rng, ("Name some {w}s.", "Which {w}s do you know?"), w=colour_word), answer
    thing, colour = rng.choice(list(COLOURS.items()))
    verb = "are" if thing.endswith("clouds") else "is"
    asked = (
        "What {w} {v} {t}?",
        "What {w} {v} {t}?",
        "Which {w} {v} {t}?",
        "Tell me the {w} of {t}.",
        "What is the {w} of {t}?",
    )
    question = fill(rng, asked, w=colour_word, v=verb, t=thing)
    return question, f"{thing[0].upper()}{thing[1:]} {verb} {colour}."


def _opposite(rng: Random) -> Turn:
    a, b = rng.sample(rng.choice(OPPOSITES), 2)
    asked = (
        "What is the opposite of {a}?",
        "What is the opposite of {a}?",
        "Tell me the opposite of {a}.",
        "What's the opposite of {a}?",
        "Opposite of {a}?",
        "Which word is the opposite of {a}?",
    )
    return fill(rng, asked, a=a), f"The opposite of {a} is {b}."


def ask(rng: Random) -> Turn:
    """Make one question about a closed set of words with its answer."""
    kinds = (_after, _names, _how_many, _month, _colour, _opposite)
    return rng.choices(kinds, (3, 1.2, 1, 1.5, 3, 3))[0](rng)
