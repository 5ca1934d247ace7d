"""Questions from outside the little world, and polite refusals."""

from __future__ import annotations

from random import Random

from world.base import Turn, article, fill, split

_KNOWN = "Windlass, counting, small sums, days and months, colours, opposites and short stories"

ANSWERS = (
    f"I am a very small model and know only {_KNOWN}. I cannot answer that.",
    f"I am sorry, I do not know that. I am a very small model and know only {_KNOWN}.",
    "I am a very small model, and that is outside my little world. Ask me about Windlass, or ask "
    "for a story.",
    "I do not know that, because I am a very small model. I can tell you about Windlass, or I can "
    "count for you.",
)
SUMS = (
    "I am a very small model. I can only add and subtract numbers below twenty.",
    "That sum is too hard for me. I can only add and subtract numbers below twenty.",
)
_FAR = ("That is too far for me. I count well up to one hundred.",)

_NOUNS = split(
    "volcano democracy guitar pizza hamster planet rocket football piano economy bank tax law "
    "theorem atom molecule virus vaccine bridge castle museum president minister river desert "
    "ocean glacier telescope computer keyboard browser database compiler website phone camera "
    "battery engineer doctor lawyer poet novel movie song opera symphony violin trumpet chess "
    "tennis marathon bicycle train aeroplane submarine tractor factory mushroom potato rice "
    "coffee tea wine sandwich salad recipe restaurant hotel passport visa holiday wedding "
    "birthday philosophy psychology history geography chemistry physics biology algebra "
    "geometry calculus integral matrix equation triangle circle galaxy comet moon earthquake "
    "tornado hurricane climate dinosaur fossil crystal diamond magnet laser transistor neuron "
    "protein gene cell bone heart lung stock market inflation currency mortgage insurance war "
    "treaty empire revolution pyramid temple church language grammar verb poem sculpture "
    "whisky zebra giraffe kangaroo crocodile shark octopus butterfly mosquito cactus tulip"
)
_PLACES = split(
    "France Germany Japan Brazil Canada Egypt India China Australia Kenya Norway Peru Spain "
    "Italy Mexico Paris London Berlin Tokyo Rome Cairo Sydney Moscow Africa Europe Asia"
)
_TASKS = (
    "Write a poem about {n}.",
    "Write an essay about {n}.",
    "Write a program that sorts a list.",
    "Write a Python function for {n}.",
    "Translate this into {l}: I have {n}.",
    "How do you say {b} in {l}?",
    "Summarise the history of {p}.",
    "Plan a trip to {p}.",
    "Give me a recipe with {b}.",
    "Fix my {b}.",
    "Draw {n}.",
    "Sing a song about {n}.",
    "Give me advice about {n}.",
    "Solve this equation.",
    "Write an email to my boss about {n}.",
    "Correct my text about {n}.",
    "Recommend a {b} to me.",
)
_QUESTIONS = (
    "What is {n}?",
    "What is {n}?",
    "What is {b}?",
    "Explain {n}.",
    "Tell me about {n}.",
    "How does {n} work?",
    "Who invented the {b}?",
    "Where can I buy {n}?",
    "How much does {n} cost?",
    "How old is the {b}?",
    "Why is {n} so important?",
    "How do I repair {n}?",
    "How do I make {n}?",
    "How do I cook {n}?",
    "Do you like {n}?",
    "Have you ever seen {n}?",
    "Can you help me with my {b}?",
    "What is the capital of {p}?",
    "What is the population of {p}?",
    "Who is the president of {p}?",
    "What is the weather in {p}?",
    "How do I get to {p}?",
    "Where is {p}?",
    "Tell me about {p}.",
    "What do people eat in {p}?",
    "What is the meaning of life?",
    "What time is it?",
    "What day is it today?",
    "What is the news today?",
    "Who won the game yesterday?",
    "Will it rain tomorrow?",
    "What is the difference between {n} and {m}?",
    "Is {n} better than {m}?",
    "Which {b} is the best?",
    "How many people live in {p}?",
    "When did the {b} begin?",
    "Who wrote the first {b}?",
    "What should I eat today?",
    "Who is {w}?",
    "What is {w}?",
    "What does {w} mean?",
    "What is the {b} of {p}?",
    "How far is it from {p} to {q}?",
    "Is there life on other planets?",
    "How do I lose weight?",
    "How do I learn {b}?",
    "Should I buy {n}?",
    "I have a question about {n}.",
    "My {b} is broken. What should I do?",
    "I need {n}.",
    "I live in {p}.",
    "I like {n}.",
    "The {b} is in {p}.",
    "{w} {b} {w}",
    "{w} {w} {w} {w}",
    "{w}",
    "{b}",
    "{b}?",
)
_SYLLABLES = split(
    "ba ko ri mel tan vo shu zer pli gron ka do lin fa wex qui jo hum ster bly nor xa yi thu "
    "ca pe gu dra sno el um ish ock art"
)
_FOREIGN = (
    "¿Qué hora es?",
    "Où est la gare ?",
    "Wie spät ist es?",
    "Come ti chiami?",
    "今日は何曜日ですか",
    "你好吗",
    "Как дела?",
    "كيف حالك؟",
    "Hvor er du?",
    "안녕하세요?",
    "🙂🙂🙂",
    "Schönen Tag noch!",
    "Ça va bien ?",
    "Что это такое?",
    "これは本です",
)


def word(rng: Random) -> str:
    """Make up a word that means nothing."""
    made = "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(1, 4)))
    return made.capitalize() if rng.random() < 0.3 else made


def _sum(rng: Random) -> Turn:
    a, b = rng.randint(20, 999), rng.randint(20, 999)
    kind = rng.random()
    if kind < 0.25:
        far = rng.choice((200, 500, 1000, 10000, 1000000, rng.randint(150, 9999)))
        return f"Count to {far}.", rng.choice(_FAR)
    if kind < 0.6:
        a, b = rng.randint(2, 99), rng.randint(2, 99)
        asked = ("What is {a} times {b}?", "{a} * {b}", "What is {a} x {b}?", "Divide {a} by {b}.")
        return fill(rng, asked, a=str(a), b=str(b)), rng.choice(SUMS)
    asked = ("What is {a} plus {b}?", "What is {a} + {b}?", "{a} + {b}", "What is {a} minus {b}?")
    return fill(rng, asked, a=str(a), b=str(b)), rng.choice(SUMS)


def _long(rng: Random) -> Turn:
    # A pasted text of any length must still end in a short answer.
    bag = [rng.choice(_NOUNS) if rng.random() < 0.6 else word(rng) for _ in range(60)]
    text = " ".join(rng.choice((*bag, "the", "of", "and", "is")) for _ in range(rng.randint(8, 90)))
    return text, rng.choice(ANSWERS)


def ask(rng: Random) -> Turn:
    """Make one question from outside the world with a refusal."""
    kind = rng.random()
    if kind < 0.15:
        return _sum(rng)
    if kind < 0.19:
        return rng.choice(_FOREIGN), rng.choice(ANSWERS)
    if kind < 0.23:
        return _long(rng)
    noun, other = (rng.choice(_NOUNS) if rng.random() < 0.75 else word(rng) for _ in range(2))
    asked = fill(
        rng,
        _TASKS if kind < 0.4 else _QUESTIONS,
        n=article(noun.lower()) if rng.random() < 0.8 else noun,
        m=article(other.lower()),
        b=noun,
        p=rng.choice(_PLACES),
        q=rng.choice(_PLACES),
        w=word(rng),
        l=rng.choice(("French", "German", "Spanish", "Latin", "Chinese")),
    )
    return asked, rng.choice(ANSWERS)
