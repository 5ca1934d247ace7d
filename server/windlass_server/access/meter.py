"""The tokens of one API call, counted while it runs."""

from __future__ import annotations


class Meter:
    """Plain numbers, so that counting a token costs an addition and nothing else.

    `prompt_tokens` is an estimate until the engine has read the prompt.
    """

    __slots__ = ("completion_tokens", "prompt_tokens")

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.completion_tokens = 0
