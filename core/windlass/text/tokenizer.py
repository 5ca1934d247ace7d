"""The tokenizer: text to token ids and back, without any Python code from the model's folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from windlass.errors import ModelError, RequestError
from windlass.loader.location import resolve_model
from windlass.text.token_pieces import PieceDecoder, TokenPieces

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerFast

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def _load_transformers_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Read `tokenizer.json` as it stands; only without one let the model type choose a class.

    The first way needs no model class, hence no torch (which `AutoTokenizer` imports).
    """
    if (folder / "tokenizer.json").is_file():
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )


def check_unicode(text: str, param: str = "prompt") -> None:
    """Raise a RequestError where the text holds half of a surrogate pair, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"The text is not valid Unicode: an unpaired surrogate stands at position "
            f"{error.start}.",
            param=param,
        ) from error


class Tokenizer:
    """A model's tokenizer: safe to use from several threads, its settings never change.

    `hf_tokenizer` is the transformers tokenizer behind it (chat templates live there).

    Raises:
        ModelError: it is no fast tokenizer, or its decoder cannot be streamed.
    """

    def __init__(self, hf_tokenizer: PreTrainedTokenizerFast) -> None:
        backend = getattr(hf_tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError(
                f"{type(hf_tokenizer).__name__} has no fast tokenizer behind it: "
                "save the model with a tokenizer.json."
            )
        # A saved truncation would silently cut prompts.
        backend.no_truncation()
        backend.no_padding()
        self.hf_tokenizer = hf_tokenizer
        self._backend = backend
        self._pieces = TokenPieces(backend)
        added = backend.get_added_tokens_decoder()
        self._special_ids = frozenset(i for i, token in added.items() if token.special)
        self._longest_token = max(map(len, backend.get_vocab()), default=1)

    @classmethod
    def load(cls, model: str, revision: str | None = None) -> Tokenizer:
        """Load from a local folder or a hub id; code in the model's folder is never run.

        Raises:
            ModelError: no tokenizer is there, or it cannot be read.
        """
        folder = resolve_model(model, revision, weights=False)
        if not any((folder / name).is_file() for name in _VOCABULARIES):
            raise ModelError(
                f"There is no tokenizer in {folder}: it needs tokenizer.json (best), "
                "tokenizer.model, or vocab.json with merges.txt. If the tokenizer is elsewhere, "
                "name its folder or hub id as the tokenizer."
            )
        try:
            return cls(_load_transformers_tokenizer(folder))
        except ModelError:
            raise
        # tokenizers raises plain Exception for a file it cannot parse.
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"The tokenizer in {folder} cannot be read: {reason}") from error

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; with special tokens, those that the model wants around a prompt.

        The text of a special token (say "<|im_end|>") becomes that token.

        Raises:
            RequestError: the text holds half of a surrogate pair, which is no character.
        """
        check_unicode(text)
        ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def encode_batch(
        self, texts: Sequence[str | tuple[str, str]], add_special_tokens: bool = True
    ) -> list[Encoding]:
        """Texts and pairs of texts as `tokenizers.Encoding`, on several threads.

        Raises:
            RequestError: see `encode`.
        """
        for text in texts:
            for part in (text,) if isinstance(text, str) else text:
                check_unicode(part, "input")
        found: list[Encoding] = self._backend.encode_batch(
            list(texts), add_special_tokens=add_special_tokens
        )
        return found

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of these tokens, exactly as the model wrote it (no clean-up of spaces).

        Unknown ids give no text. Where a byte-fallback tokenizer's byte tokens are broken UTF-8,
        the whole characters among them are kept (tokenizers replaces the whole run), because a
        stream has shown them already.
        """
        decoder = self.piece_decoder(skip_special_tokens)
        return decoder.decode(ids) + decoder.finish()

    def piece_decoder(self, skip_special_tokens: bool = True) -> PieceDecoder:
        """A fresh decoder that takes tokens one at a time."""
        return PieceDecoder(self._pieces, self._special_ids if skip_special_tokens else frozenset())

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that this token adds to a text; b"" for an unknown id."""
        return self._pieces.piece(token_id)

    def token_text(self, token_id: int) -> str:
        """This token alone as text; U+FFFD where it holds only part of a character."""
        return self.token_bytes(token_id).decode(errors="replace")

    @property
    def takes_types(self) -> bool:
        """Whether the model's files want token types beside the tokens of a pair."""
        return "token_type_ids" in self.hf_tokenizer.model_input_names

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added tokens included (the model's vocabulary may be larger)."""
        size: int = self._backend.get_vocab_size(with_added_tokens=True)
        return size

    @property
    def longest_token(self) -> int:
        """Length of the longest token, in characters of the vocabulary file."""
        return self._longest_token

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text, if the tokenizer names one."""
        token_id: int | None = self.hf_tokenizer.eos_token_id
        return token_id

    def end_ids(self, eos_token_ids: Iterable[int], vocab_size: int) -> tuple[int, ...]:
        """The tokens that end an output: the model's `eos_token_ids`, then the tokenizer's own."""
        ids = dict.fromkeys(eos_token_ids)
        if self.eos_token_id is not None and self.eos_token_id < vocab_size:
            ids[self.eos_token_id] = None
        return tuple(ids)

    def json(self) -> str:
        """The tokenizer as the text of a `tokenizer.json`, later added tokens included."""
        text: str = self._backend.to_str()
        return text

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of the special tokens, which `skip_special_tokens` leaves out."""
        return self._special_ids

    @property
    def special_tokens(self) -> dict[str, int]:
        """The text of each special token, and its id."""
        added = self._backend.get_added_tokens_decoder()
        return {str(added[i].content): i for i in sorted(self._special_ids)}

    @property
    def chat_template(self) -> str | None:
        """The template that chats are rendered with; of several the default one."""
        template = self.hf_tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        return template or None

    @property
    def has_chat_template(self) -> bool:
        """Whether the model brings a chat template."""
        return bool(self.hf_tokenizer.chat_template)
