"""Pairs of texts as a cross-encoder reads them, or as a question to a language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from windlass.config import ModelInfo, PoolingInfo
from windlass.errors import ContextLengthError, RequestError
from windlass.pooling import ScoreParams
from windlass.request import PoolingOptions
from windlass.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tokenizers import Encoding

# The question that Qwen3-Reranker was trained on; its instruction when a request brings none.
_QUESTION_START = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
_QUESTION_END = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

Pair = tuple[str, str]
"""A query and a document, or any two texts."""
_Encode = Callable[[list[Pair]], "list[Encoding]"]


def paired(first: str | Sequence[str], second: str | Sequence[str]) -> list[Pair]:
    """Pair one text with each of several, or texts one by one.

    Raises:
        RequestError: there are several on both sides, and not equally many.
    """
    firsts = [first] if isinstance(first, str) else list(first)
    seconds = [second] if isinstance(second, str) else list(second)
    if len(firsts) == 1:
        firsts *= len(seconds)
    if len(firsts) != len(seconds):
        raise RequestError(
            f"text_1 has {len(firsts)} texts and text_2 has {len(seconds)}: give one for all, or "
            "as many on both sides.",
            param="text_2",
        )
    return list(zip(firsts, seconds, strict=True))


def too_long(info: ModelInfo, length: int, index: int) -> ContextLengthError:
    """Return the error of an input of `length` tokens, the `index`-th of its request."""
    return ContextLengthError(
        f"This model's maximum input length is {info.max_model_len} tokens. However, input {index} "
        f"has {length} tokens. Shorten it, or let truncate_prompt_tokens cut it.",
        param="input",
    )


class PairEncoder:
    """Tokenises pairs for one model; where one must be cut, its second text is."""

    def __init__(self, info: ModelInfo, pooling: PoolingInfo, tokenizer: Tokenizer) -> None:
        self._info = info
        self._tokenizer = tokenizer
        self._asks = pooling.asks_yes_or_no
        self._typed = pooling.takes_types and tokenizer.takes_types

    def shorten_documents(self, pairs: list[Pair], keep: int | None) -> list[Pair]:
        """Cut each second text to its first `keep` tokens; None leaves them as they are."""
        if keep is None:
            return pairs
        encodings = self._tokenizer.encode_batch([second for _, second in pairs], False)
        return [
            (first, second[: encoding.offsets[keep - 1][1]] if len(encoding) > keep else second)
            for (first, second), encoding in zip(pairs, encodings, strict=True)
        ]

    def encode(
        self, pairs: list[Pair], params: ScoreParams, limit: int, *, cuts: bool
    ) -> list[tuple[list[int], PoolingOptions]]:
        """Return the token ids of each pair, at most `limit`, and what the engine is to do.

        Raises:
            ContextLengthError: a pair is longer and may not be cut (`cuts`), or its first text
                leaves no room for the second.
        """
        if self._asks:
            return self._questions(pairs, params.instruction or _INSTRUCTION, limit, cuts)
        encodings = self._fit(pairs, limit, cuts, self._tokenizer.encode_batch)
        return [
            (found.ids, PoolingOptions(type_ids=found.type_ids if self._typed else None))
            for found in encodings
        ]

    def _questions(
        self, pairs: list[Pair], instruction: str, limit: int, cuts: bool
    ) -> list[tuple[list[int], PoolingOptions]]:
        """Each pair as a question that a language model answers with yes or no."""
        start = self._tokenizer.encode(_QUESTION_START, add_special_tokens=False)
        end = self._tokenizer.encode(_QUESTION_END, add_special_tokens=False)

        def encode(some: list[Pair]) -> list[Encoding]:
            texts = [f"<Instruct>: {instruction}\n<Query>: {q}\n<Document>: {d}" for q, d in some]
            return self._tokenizer.encode_batch(texts, False)

        room = max(0, limit - len(start) - len(end))
        options = PoolingOptions()
        return [
            (start + found.ids + end, options) for found in self._fit(pairs, room, cuts, encode)
        ]

    def _fit(self, pairs: list[Pair], room: int, cuts: bool, encode: _Encode) -> list[Encoding]:
        """Tokenise pairs; where one is longer than `room` its second text is cut, or it raises."""
        encodings = encode(pairs)
        for index, encoding in enumerate(encodings):
            if len(encoding) > room:
                if not cuts:
                    extra = self._info.max_model_len - room
                    raise too_long(self._info, len(encoding) + extra, index)
                encodings[index] = self._cut(pairs[index], room, len(encoding), encode)
        return encodings

    def _cut(self, pair: Pair, room: int, length: int, encode: _Encode) -> Encoding:
        first, second = pair
        ends = [end for _, end in self._tokenizer.encode_batch([second], False)[0].offsets]
        keep = len(ends)
        while True:
            # What is cut may be tokenised otherwise at its end: cut until it fits.
            keep -= length - room
            if keep < 1:
                raise ContextLengthError(
                    f"A query leaves no room for its document in the {room} tokens of an input: "
                    "shorten it.",
                    param="input",
                )
            encoding = encode([(first, second[: ends[keep - 1]])])[0]
            length = len(encoding)
            if length <= room:
                return encoding
