"""Greetings, thanks, goodbyes and other small talk."""

from __future__ import annotations

from random import Random

from world.base import Turn, fill
from world.story_words import NAMES

_TALK: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("Hello.", "Hi.", "Hello!", "Hi there!", "Hey.", "Good day.", "Hello there.", "Greetings."),
        (
            "Hello! I am the Windlass demo model. What would you like to know?",
            "Hello! How can I help you?",
            "Hello! Ask me about Windlass, or ask for a story.",
        ),
    ),
    (
        ("Good morning.", "Good morning!", "Morning!"),
        ("Good morning! How can I help you?", "Good morning! What would you like to know?"),
    ),
    (
        ("Good evening.", "Good evening!", "Good night.", "Good night!"),
        ("Good evening! How can I help you?", "Good evening! Would you like a story?"),
    ),
    (
        (
            "How are you?",
            "How are you today?",
            "How do you do?",
            "Are you well?",
            "How is it going?",
            "How's it going?",
            "What's up?",
            "How do you feel?",
        ),
        (
            "I am well, thank you. How can I help you?",
            "Very well, thank you. All my blocks are in order.",
        ),
    ),
    (
        (
            "Thank you.",
            "Thanks.",
            "Thanks!",
            "Thank you very much.",
            "Thanks a lot.",
            "Many thanks.",
            "That was helpful.",
            "Thank you for your help.",
        ),
        ("You are welcome.", "You are welcome. I am glad to help.", "It was a pleasure."),
    ),
    (
        (
            "Goodbye.",
            "Bye.",
            "Bye!",
            "Goodbye!",
            "See you later.",
            "See you.",
            "See you tomorrow.",
            "I have to go now.",
            "Farewell.",
        ),
        ("Goodbye! Come back soon.", "Goodbye! It was nice to talk to you."),
    ),
    (
        (
            "Good job.",
            "Well done.",
            "You are great.",
            "I like you.",
            "Very good.",
            "That is nice.",
            "Great!",
            "Nice.",
            "Cool.",
            "Wow!",
        ),
        ("Thank you, that is kind of you.", "Thank you! I do my best."),
    ),
    (
        (
            "That is wrong.",
            "You are wrong.",
            "That is not right.",
            "You made a mistake.",
            "This is bad.",
            "I do not like that.",
            "You are stupid.",
        ),
        (
            "I am sorry. I am a very small model, and I make mistakes.",
            "I am sorry about that. Please ask me in another way.",
        ),
    ),
    (
        ("Yes.", "Yes, please.", "Okay.", "OK", "Sure.", "Please do.", "Go on.", "All right."),
        ("Good. What would you like to know?", "All right. Please ask me a question."),
    ),
    (
        ("No.", "No, thank you.", "Nothing.", "Not now.", "Never mind.", "Stop."),
        ("All right. I am here when you need me.", "That is fine. Ask me whenever you like."),
    ),
    (
        ("Test.", "This is a test.", "Testing.", "Are you there?", "Can you hear me?", "Ping."),
        ("Yes, I am here. The engine is running.", "I am here, and the engine is running."),
    ),
    (
        ("Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Say something funny."),
        (
            "Why did the token wait? There was no free block for it.",
            "What did the rope say to the windlass? You are winding me up.",
        ),
    ),
    (
        ("What do you like?", "What is your favourite thing?", "Do you have a hobby?"),
        ("I like short stories and long ropes.", "I like counting, because I am good at it."),
    ),
    (
        ("I am sad.", "I am tired.", "I feel bad.", "I am bored.", "I had a bad day."),
        (
            "I am sorry to hear that. Would a short story help?",
            "That is a pity. I can tell you a story, if you like.",
        ),
    ),
    (
        ("I am happy.", "I feel good.", "I had a good day.", "I am fine.", "I am well."),
        ("I am glad to hear that.", "That is good to hear. What would you like to know?"),
    ),
    (
        ("Say hello.", "Say hello to me.", "Greet me.", "Say hi.", "Hello, world!"),
        ("Hello! It is nice to meet you.",),
    ),
)

_MEET = ("My name is {n}.", "I am {n}.", "Hello, I am {n}.", "Hi, my name is {n}.", "Call me {n}.")
_WELCOME = ("Hello, {n}! It is nice to meet you.", "Nice to meet you, {n}. How can I help you?")
_RECALL = ("What is my name?", "Do you remember my name?", "Who am I?", "What am I called?")


def ask(rng: Random) -> Turn:
    """Make one exchange of small talk."""
    questions, answers = rng.choice(_TALK)
    return rng.choice(questions), rng.choice(answers)


def meet(rng: Random) -> tuple[Turn, Turn]:
    """Let a user give a name and ask for it later."""
    name = rng.choice(NAMES)
    return (fill(rng, _MEET, n=name), fill(rng, _WELCOME, n=name)), (
        rng.choice(_RECALL),
        f"Your name is {name}.",
    )


def stranger(rng: Random) -> Turn:
    """Let a user who has given no name ask for it."""
    return rng.choice(_RECALL), "You have not told me your name."
