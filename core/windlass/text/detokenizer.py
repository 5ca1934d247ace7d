"""Text of one sequence as it grows: safe to show at every moment."""

from __future__ import annotations

from windlass.request import SamplingParams
from windlass.text.stop_strings import compile_stop_strings
from windlass.text.tokenizer import Tokenizer


class IncrementalDetokenizer:
    """Decodes output tokens as they come and looks for stop strings; O(1) amortised per token.

    What it releases is final: it never ends inside a code point and never holds any part of a
    stop string that is later found (unless the stop string is wanted in the output). The text is
    cut at the stop string that is complete first; of several complete at the same character, at
    the longest. So text, stop string and number of tokens used do not depend on how the tokens
    were grouped. Stop strings completed by the first `min_tokens` tokens do not count.

    The text goes on behind the prompt: with a tokenizer whose tokens carry their leading space,
    the first output token keeps its space.
    """

    def __init__(
        self, tokenizer: Tokenizer, sampling: SamplingParams, prompt_token_ids: list[int]
    ) -> None:
        self._decoder = tokenizer.piece_decoder(sampling.skip_special_tokens)
        self._decoder.start_after(prompt_token_ids)
        stops = sampling.stop_strings
        self._stops = compile_stop_strings(stops) if stops else None
        self._include_stop = sampling.include_stop_str_in_output
        self._min_tokens = sampling.min_tokens
        self._num_tokens = 0
        self._state = 0
        self._held = ""
        self._released: list[str] = []
        self._num_taken = 0
        self._ended = False

    @property
    def text(self) -> str:
        """Everything released so far."""
        return "".join(self._released)

    @property
    def num_tokens(self) -> int:
        """Tokens used so far: after a stop string, those up to the one that completed it."""
        return self._num_tokens

    def append(self, token_ids: list[int]) -> str | None:
        """Take in output tokens; returns the stop string that ended the text, or None.

        Tokens after the one that completed a stop string are not used.
        """
        for token_id in token_ids:
            if self._ended:
                return None
            self._num_tokens += 1
            stop = self._take_in(self._decoder.decode_token(token_id))
            if stop is not None:
                return stop
        return None

    def finish(self) -> str | None:
        """Release what was held back; returns a stop string that the very end completed."""
        if self._ended:
            return None
        stop = self._take_in(self._decoder.finish())
        if stop is None:
            self._end_with(self._held)
        return stop

    def take_delta(self) -> str:
        """The text released since the last call."""
        delta = "".join(self._released[self._num_taken :])
        self._num_taken = len(self._released)
        return delta

    def _take_in(self, text: str) -> str | None:
        if not text:
            return None
        if self._stops is None or (not self._state and self._stops.absent(text)):
            self._released.append(text)
            return None
        pending = self._held + text
        for end, char in enumerate(text, start=len(self._held) + 1):
            self._state = self._stops.advance(self._state, char)
            stop = self._stops.match(self._state)
            if stop is not None and self._num_tokens > self._min_tokens:
                self._end_with(pending[: end if self._include_stop else end - len(stop)])
                return stop
        held = 0 if self._include_stop else self._stops.held(self._state)
        border = len(pending) - held
        self._held = pending[border:]
        if border:
            self._released.append(pending[:border])
        return None

    def _end_with(self, text: str) -> None:
        if text:
            self._released.append(text)
        self._held = ""
        self._ended = True
