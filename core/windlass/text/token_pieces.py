"""What each token adds to a text, as bytes, and the decoder that joins the pieces.

The tokenizers of decoder language models are concatenative: a text's UTF-8 bytes are the bytes of
its tokens one after the other (only the very first token may lose a leading space). So decoding,
whole or token by token, is one table lookup and one incremental UTF-8 decoder: O(1) per token and
the same text however the tokens arrive.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from windlass.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as TokenizersBackend

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_PER_TOKEN_STEPS = {"Replace", "ByteFallback", "Strip", "Metaspace", "WordPiece"}
_EACH_BYTE = "windlass.replace_each_byte"


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    """Put one U+FFFD per broken byte, as byte-fallback decoders do."""
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error(_EACH_BYTE, _replace_each_byte)


def _byte_level_alphabet() -> dict[str, int]:
    """The printable stand-in characters of byte-level BPE (GPT-2) and the bytes they mean."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + i): byte for i, byte in enumerate(others)})
    return alphabet


def _decoder_steps(backend: TokenizersBackend) -> list[dict[str, Any]]:
    """The decoder's steps in order, sequences flattened; empty when there is no decoder."""
    if backend.decoder is None:
        return []
    steps: list[dict[str, Any]] = []
    waiting = [json.loads(backend.decoder.__getstate__())]
    while waiting:
        step = waiting.pop(0)
        waiting[:0] = step.get("decoders", [])
        if step["type"] != "Sequence":
            steps.append(step)
    return steps


def _check_concatenative(steps: list[dict[str, Any]]) -> None:
    kinds = [step["type"] for step in steps]
    if "ByteLevel" in kinds:
        wrong = set(kinds) - {"ByteLevel", "Fuse"}
    else:
        fused = kinds.index("Fuse") if "Fuse" in kinds else len(kinds)
        wrong = set(kinds[:fused]) - _PER_TOKEN_STEPS
        # What follows Fuse sees the whole text: only a strip of its start leaves borders alone.
        wrong |= {
            step["type"]
            for step in steps[fused + 1 :]
            if step["type"] != "Strip" or step.get("stop", 0) != 0
        }
    if wrong:
        raise ModelError(
            f"The tokenizer's decoder ({' > '.join(kinds)}) cannot be streamed: "
            f"{', '.join(sorted(wrong))} depends on later tokens. Byte-level, byte-fallback and "
            "Metaspace decoders are supported."
        )


class TokenPieces:
    """The bytes of every token of a `tokenizers.Tokenizer`, found on first use.

    Raises:
        ModelError: the tokenizer's decoder is not concatenative.
    """

    def __init__(self, backend: TokenizersBackend) -> None:
        self._backend = backend
        steps = _decoder_steps(backend)
        _check_concatenative(steps)
        kinds = {step["type"] for step in steps}
        self._byte_fallback = "ByteFallback" in kinds
        self._alphabet = _byte_level_alphabet() if "ByteLevel" in kinds else None
        self._inner: dict[int, bytes] = {}
        self._first: dict[int, bytes] = {}
        self._anchor: tuple[int, int] | None = None

    @property
    def utf8_errors(self) -> str:
        """The codec error handler that gives this kind of decoder's U+FFFD for broken bytes."""
        return _EACH_BYTE if self._byte_fallback else "replace"

    def piece(self, token_id: int, *, first: bool = False) -> bytes:
        """The token's bytes inside a text, or at its very beginning; b"" for an unknown id."""
        known = self._first if first else self._inner
        piece = known.get(token_id)
        if piece is None:
            piece = known[token_id] = self._find(token_id, first)
        return piece

    def known(self, token_id: int) -> bool:
        """Whether the tokenizer has this id (a model's vocabulary may be padded beyond it)."""
        return self._token(token_id) is not None

    def _token(self, token_id: int) -> str | None:
        return self._backend.id_to_token(token_id) if 0 <= token_id < 2**32 else None

    def _find(self, token_id: int, first: bool) -> bytes:
        token = self._token(token_id)
        if token is None:
            return b""
        if self._alphabet is not None:
            if all(char in self._alphabet for char in token):
                return bytes(self._alphabet[char] for char in token)
            return token.encode()
        byte = _BYTE_TOKEN.fullmatch(token) if self._byte_fallback else None
        if byte and int(byte[1], 16) >= 0x80:
            return bytes([int(byte[1], 16)])
        return self._ask_backend(token_id, first).encode()

    def _ask_backend(self, token_id: int, first: bool) -> str:
        if first:
            return self._text([token_id])
        if self._anchor is None:
            self._anchor = self._find_anchor()
        anchor, length = self._anchor
        return self._text([anchor, token_id])[length:]

    def _find_anchor(self) -> tuple[int, int]:
        """A token with a text of its own, to stand before another one, and that text's length."""
        vocabulary = self._backend.get_vocab()
        for token in sorted(vocabulary, key=vocabulary.__getitem__):
            token_id = vocabulary[token]
            text = self._text([token_id])
            if text.strip() and not (self._byte_fallback and _BYTE_TOKEN.fullmatch(token)):
                return token_id, len(text)
        raise ModelError("The tokenizer has no token with a text.")

    def _text(self, token_ids: list[int]) -> str:
        text: str = self._backend.decode(token_ids, skip_special_tokens=False)
        return text


class PieceDecoder:
    """Turns tokens into text as they come; never splits a code point.

    Tokens in `skipped_ids` and unknown ids give no text. Broken bytes become U+FFFD, but only once
    it is certain that no later byte completes them.
    """

    def __init__(self, pieces: TokenPieces, skipped_ids: frozenset[int] = frozenset()) -> None:
        self._pieces = pieces
        self._skipped_ids = skipped_ids
        self._at_start = True
        self._utf8 = codecs.getincrementaldecoder("utf-8")(pieces.utf8_errors)

    def start_after(self, token_ids: list[int]) -> None:
        """Go on behind a prompt: keep its state (the start, a code point begun), not its text."""
        tail: list[int] = []
        num_bytes = 0
        for token_id in reversed(token_ids):
            if not self._gives_text(token_id):
                continue
            tail.append(token_id)
            num_bytes += len(self._pieces.piece(token_id))
            if num_bytes >= 4:
                break
        self.decode(reversed(tail))

    def decode_token(self, token_id: int) -> str:
        """The text that this token completes, which may be empty."""
        if self._at_start:
            return self._decode_first(token_id)
        if token_id in self._skipped_ids:
            return ""
        return self._utf8.decode(self._pieces.piece(token_id))

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text that these tokens complete."""
        return "".join([self.decode_token(token_id) for token_id in token_ids])

    def finish(self) -> str:
        """What is left: U+FFFD for a code point that was begun and never completed, or ""."""
        return self._utf8.decode(b"", final=True)

    def _decode_first(self, token_id: int) -> str:
        if not self._gives_text(token_id):
            return ""
        self._at_start = False
        return self._utf8.decode(self._pieces.piece(token_id, first=True))

    def _gives_text(self, token_id: int) -> bool:
        return token_id not in self._skipped_ids and self._pieces.known(token_id)
