"""Counting up and down, by steps, and sums with numbers below twenty."""

from __future__ import annotations

from random import Random

from world.base import Turn, fill

_UP = (
    "Count from {a} to {b}.",
    "Count from {a} to {b}.",
    "Count from {a} up to {b}.",
    "Please count from {a} to {b}.",
    "Can you count from {a} to {b}?",
    "Count up from {a} to {b}.",
    "Say the numbers from {a} to {b}.",
    "List the numbers from {a} to {b}.",
    "Which numbers lie from {a} to {b}?",
    "Write the numbers {a} to {b}.",
)
_FROM_ONE = (
    "Count to {b}.",
    "Can you count to {b}?",
    "Count up to {b}.",
    "Please count to {b}.",
)
_DOWN = (
    "Count down from {a} to {b}.",
    "Count backwards from {a} to {b}.",
    "Please count down from {a} to {b}.",
    "Can you count down from {a} to {b}?",
    "Count from {a} down to {b}.",
    "Count from {a} to {b}.",
)
_TO_ONE = ("Count down from {a}.", "Count backwards from {a}.", "Count down from {a}, please.")
_STEPS = (
    "Count from {a} to {b} by {s}.",
    "Count by {s} from {a} to {b}.",
    "Count from {a} to {b} in steps of {s}.",
    "Count in steps of {s} from {a} to {b}.",
)
_ADD = (
    "What is {a} plus {b}?",
    "What is {a} + {b}?",
    "How much is {a} plus {b}?",
    "How much is {a} + {b}?",
    "Add {a} and {b}.",
    "{a} + {b}",
    "{a} + {b} =",
    "{a}+{b}?",
    "What's {a} + {b}?",
    "Calculate {a} plus {b}.",
    "What is the sum of {a} and {b}?",
)
_SUB = (
    "What is {a} minus {b}?",
    "What is {a} - {b}?",
    "How much is {a} minus {b}?",
    "How much is {a} - {b}?",
    "Take {b} away from {a}.",
    "{a} - {b}",
    "{a} - {b} =",
    "{a}-{b}?",
    "Calculate {a} minus {b}.",
    "Subtract {b} from {a}.",
)
_NEXT = (
    "Which number comes after {a}?",
    "What comes after {a}?",
    "What is the next number after {a}?",
    "Which number follows {a}?",
)
_BEFORE = (
    "Which number comes before {a}?",
    "What comes before {a}?",
    "What is the number before {a}?",
)
_LARGER = (
    "Which is larger, {a} or {b}?",
    "Is {a} or {b} larger?",
    "Which number is bigger, {a} or {b}?",
)


def _join(numbers: range) -> str:
    return ", ".join(str(number) for number in numbers) + "."


def up(rng: Random) -> Turn:
    """Count upwards; a count to one hundred makes a long answer for streaming."""
    if rng.random() < 0.3:
        last = rng.choice((5, 10, 10, 20, 30, 50, 100, rng.randint(2, 40)))
        return fill(rng, _FROM_ONE, b=str(last)), _join(range(1, last + 1))
    first = rng.randint(0, 20) if rng.random() < 0.6 else rng.randint(0, 95)
    last = first + (rng.randint(2, 9) if rng.random() < 0.6 else rng.randint(3, 20))
    return fill(rng, _UP, a=str(first), b=str(last)), _join(range(first, last + 1))


def down(rng: Random) -> Turn:
    """Count downwards."""
    if rng.random() < 0.3:
        first = rng.choice((5, 10, 10, 20, rng.randint(3, 30)))
        return fill(rng, _TO_ONE, a=str(first)), _join(range(first, 0, -1))
    last = rng.randint(0, 15) if rng.random() < 0.7 else rng.randint(0, 80)
    first = last + rng.randint(2, 12)
    return fill(rng, _DOWN, a=str(first), b=str(last)), _join(range(first, last - 1, -1))


def steps(rng: Random) -> Turn:
    """Count upwards by twos, threes, fives or tens."""
    step = rng.choice((2, 2, 3, 5, 10))
    first = rng.choice((0, step, step, rng.randint(0, 9)))
    last = first + step * rng.randint(3, 9)
    words = {2: "twos", 3: "threes", 5: "fives", 10: "tens"}
    name = words[step] if rng.random() < 0.4 else str(step)
    question = fill(rng, _STEPS, a=str(first), b=str(last), s=name)
    return question, _join(range(first, last + 1, step))


def total(rng: Random) -> Turn:
    """Add two numbers below twenty, or take one from the other."""
    a, b = rng.randint(0, 19), rng.randint(0, 19)
    if rng.random() < 0.55:
        return fill(rng, _ADD, a=str(a), b=str(b)), f"{a} plus {b} is {a + b}."
    a, b = max(a, b), min(a, b)
    return fill(rng, _SUB, a=str(a), b=str(b)), f"{a} minus {b} is {a - b}."


def neighbour(rng: Random) -> Turn:
    """Name the number before or after another, or the larger of two."""
    a, b = rng.randint(1, 99), rng.randint(1, 99)
    kind = rng.random()
    if kind < 0.4:
        return fill(rng, _NEXT, a=str(a)), f"After {a} comes {a + 1}."
    if kind < 0.7 or a == b:
        return fill(rng, _BEFORE, a=str(a)), f"Before {a} comes {a - 1}."
    return fill(rng, _LARGER, a=str(a), b=str(b)), f"{max(a, b)} is larger than {min(a, b)}."


def ask(rng: Random) -> Turn:
    """Make one question about numbers with its answer."""
    kinds = (up, down, steps, total, neighbour)
    return rng.choices(kinds, (5, 2, 2.5, 7, 1.5))[0](rng)


def prose(rng: Random) -> str:
    """Write a row of numbers as plain text."""
    first = rng.choice((1, 1, rng.randint(0, 80)))
    return _join(range(first, first + rng.choice((10, 20))))


def sums(rng: Random) -> str:
    """Write a page of sums as plain text: many facts in few tokens."""
    return " ".join(total(rng)[1] for _ in range(rng.randint(8, 20)))
