"""The words that stories are made of."""

from __future__ import annotations

from world.base import split

FEMALE = (
    "Ada",
    "Mira",
    "Nora",
    "Lena",
    "Ruby",
    "Clara",
    "Ella",
    "Ivy",
    "Rosa",
    "Tilda",
    "Maya",
    "Hanna",
)
MALE = (
    "Otto",
    "Finn",
    "Leo",
    "Theo",
    "Max",
    "Hugo",
    "Emil",
    "Oscar",
    "Ben",
    "Jonas",
    "Felix",
    "Sam",
)
NAMES = FEMALE + MALE

CHARACTERS = split(
    "fox bear rabbit mouse cat dog owl frog duck hedgehog squirrel wolf lion tiger elephant "
    "horse donkey goat sheep cow pig hen crow raven swan turtle whale dolphin crab penguin "
    "seal beaver badger mole bee ant snail spider dragon giant robot king queen prince "
    "princess sailor miner farmer baker painter teacher child girl boy wizard pirate knight "
    "cook gardener fisherman monkey camel deer otter parrot unicorn ghost bird fish snake"
)
WOMEN = split("queen princess girl hen cow")
MEN = split("king prince boy fisherman")
TRAITS = split("small clever brave shy kind young old curious quiet cheerful lazy gentle patient")
PLACES = (
    "in a deep forest",
    "by the sea",
    "near an old mill",
    "on a high mountain",
    "in a small village",
    "by a wide river",
    "on a green island",
    "at the edge of a town",
    "in a quiet valley",
    "beside a blue lake",
    "in a tall tower",
    "near the harbour",
)
THINGS = split(
    "lantern key map bell boat kite book drum coin clock ring shell hat rope basket mirror "
    "flute letter stone box star feather apple crown"
)
ADJECTIVES = split("golden little old red blue silver round wooden shiny broken green")
FRIENDS = split("fox owl bear rabbit frog duck crow hedgehog sailor farmer miller child")
HIDING = (
    "under a bridge",
    "behind a stone wall",
    "in a hollow tree",
    "at the bottom of a well",
    "under a pile of leaves",
    "on the top of a hill",
    "between two rocks",
    "in an empty boat",
)
WEATHER = (
    "It was a warm day in spring",
    "It was a cold morning in winter",
    "It was a quiet evening in autumn",
    "The sun was shining",
    "The rain had just stopped",
    "The wind was strong",
    "The moon was round and bright",
    "Snow was falling",
)
FOOD = split("soup bread pancakes apples cheese honey porridge berries")
LESSONS = (
    "a friend is worth more than a treasure",
    "it is good to ask for help",
    "small steps lead far",
    "patience is stronger than haste",
    "a shared load is a light load",
    "even the smallest can help the largest",
    "it is never too late to try again",
    "a kind word costs nothing",
)
