"""A model's vocabulary as llguidance reads it: the bytes that each token gives the client."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from windlass.text.token_pieces import TokenPieces

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from tokenizers import Tokenizer as TokenizersBackend

    from windlass.config import ModelInfo
    from windlass.text import Tokenizer


class Vocabulary(msgspec.Struct, frozen=True):
    """What a matcher needs to know of a tokenizer, in a form that travels between processes.

    `tokenizer` is the text of a `tokenizer.json`; `vocab_size` the model's output width. Special
    tokens are no part of a text: a grammar has to name them. `end_ids` end an output.
    """

    tokenizer: str
    vocab_size: int
    special_ids: tuple[int, ...]
    end_ids: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, info: ModelInfo) -> Vocabulary:
        """Return the vocabulary of a loaded model."""
        return cls.read(tokenizer, info.vocab_size, info.eos_token_ids)

    @classmethod
    def read(
        cls, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Iterable[int]
    ) -> Vocabulary:
        """Return the vocabulary of a model with this output width and these ends."""
        ends = tokenizer.end_ids(eos_token_ids, vocab_size)
        return cls(tokenizer.json(), vocab_size, tuple(sorted(tokenizer.special_ids)), ends)

    def build(self) -> LLTokenizer:
        """Return llguidance's tokenizer; takes seconds of processor time for a large vocabulary.

        Raises:
            ValueError: the model has no end-of-text token, so no output could end.
        """
        from llguidance import LLTokenizer
        from tokenizers import Tokenizer as TokenizersBackend

        if not self.end_ids:
            raise ValueError("the model has no end-of-text token")
        backend = TokenizersBackend.from_str(self.tokenizer)
        known = _KnownTokens(backend, self)
        return LLTokenizer(known, eos_token=list(self.end_ids))  # type: ignore[arg-type]


class _KnownTokens:
    """The attributes that `LLTokenizer` reads; ids that the tokenizer lacks have no bytes."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, backend: TokenizersBackend, vocabulary: Vocabulary) -> None:
        self._backend = backend
        pieces = TokenPieces(backend)
        size = vocabulary.vocab_size
        self.tokens: Sequence[bytes] = [pieces.piece(token) for token in range(size)]
        special = {*vocabulary.special_ids, *vocabulary.end_ids}
        self.special_token_ids = sorted(token for token in special if token < size)
        self.eos_token_id = vocabulary.end_ids[0]

    def __call__(self, text: str | bytes) -> list[int]:
        whole = text if isinstance(text, str) else text.decode(errors="replace")
        ids: list[int] = self._backend.encode(whole, add_special_tokens=False).ids
        return ids
