"""The way in: everything that can be refused about a request is refused here.

What leaves this module the engine can run: ids inside the vocabulary, a prompt that leaves room
for at least one token, every optional value filled in.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from msgspec.structs import replace

from windlass.config import ModelInfo
from windlass.errors import ContextLengthError, RequestError
from windlass.request import Request, SamplingParams
from windlass.text.prompt import Prompt
from windlass.text.tokenizer import Tokenizer

MAX_CACHE_SALT_BYTES = 1024
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_PROMPT_KEYS = frozenset({"prompt", "prompt_token_ids", "cache_salt"})
_SEED_MODULUS = 2**63


@dataclass(slots=True)
class ProcessedRequest:
    """A request that the engine can run, with its `n` sequences.

    `prompt` is None for a prompt given as token ids. `sampling` has `max_tokens` and `seed`
    filled in and still the request's `n`.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    sampling: SamplingParams
    requests: list[Request]


class InputProcessor:
    """Checks requests for one model and unfolds each into the sequences to generate."""

    def __init__(self, info: ModelInfo, tokenizer: Tokenizer) -> None:
        self._info = info
        self._tokenizer = tokenizer
        self._eos_token_ids = tokenizer.end_ids(info.eos_token_ids, info.vocab_size)

    def process(
        self,
        request_id: str,
        prompt: Prompt,
        sampling: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str = "",
        arrival_time: float = 0.0,
    ) -> ProcessedRequest:
        """Validate and tokenise; `max_tokens` is cut to what the context leaves.

        A prompt's own `cache_salt` wins over the argument. A text prompt gets the special tokens
        that the model wants (token ids are taken as they are); `truncate_prompt_tokens` cuts the
        beginning of both. Without a seed, a random one is
        drawn; sequence i of n uses seed + i (modulo 2**63) and the id "<request_id>-<i>".

        Raises:
            ContextLengthError: the prompt leaves no room for an answer.
            RequestError: anything else is wrong; `param` names it.
        """
        if not _REQUEST_ID.fullmatch(request_id):
            raise RequestError(
                "request_id must be 1 to 128 letters, digits or . _ : - characters.",
                param="request_id",
            )
        if not -(2**63) <= priority < 2**63:
            raise RequestError("priority must be a 64-bit integer.", param="priority")
        truncates = sampling.truncate_prompt_tokens is not None
        text, token_ids, own_salt = self._read_prompt(prompt, truncates=truncates)
        salt = own_salt or cache_salt
        _check_cache_salt(salt)
        text, token_ids = self._truncate(text, token_ids, sampling.truncate_prompt_tokens)
        self._check_prompt_ids(token_ids)
        resolved = self._resolve(sampling, len(token_ids))
        requests = [
            Request(
                request_id=f"{request_id}-{i}" if resolved.n > 1 else request_id,
                prompt_token_ids=token_ids,
                sampling=_sequence_sampling(resolved, i),
                eos_token_ids=self._eos_token_ids,
                arrival_time=arrival_time,
                priority=priority,
                cache_salt=salt,
            )
            for i in range(resolved.n)
        ]
        return ProcessedRequest(request_id, text, token_ids, resolved, requests)

    def _read_prompt(self, prompt: Prompt, *, truncates: bool) -> tuple[str | None, list[int], str]:
        """Text if there is one, token ids, cache salt."""
        text: object = None
        ids: object = None
        salt: object = ""
        if isinstance(prompt, str):
            text = prompt
        elif isinstance(prompt, list):
            ids = prompt
        elif isinstance(prompt, dict):
            fields = cast("dict[str, object]", prompt)
            _check_prompt_keys(fields)
            text, ids = fields.get("prompt"), fields.get("prompt_token_ids")
            salt = fields.get("cache_salt", "")
        else:
            raise RequestError(
                "prompt must be text, a list of token ids, or a dict with one of them, "
                f"not {type(prompt).__name__}.",
                param="prompt",
                code="invalid_type",
            )
        if not (text is None or isinstance(text, str)) or not isinstance(salt, str):
            raise RequestError(
                "prompt and cache_salt must be text.", param="prompt", code="invalid_type"
            )
        if ids is not None:
            return text, _check_id_types(ids), salt
        return text, self._encode(text or "", truncates=truncates), salt

    def _truncate(
        self, text: str | None, token_ids: list[int], keep: int | None
    ) -> tuple[str | None, list[int]]:
        """The last `keep` tokens (-1: as many as leave room for one more), and their text."""
        if keep is None:
            return text, token_ids
        kept = token_ids[-(self._info.max_model_len - 1 if keep == -1 else keep) :]
        if text is not None and len(kept) < len(token_ids):
            text = self._tokenizer.decode(kept)
        return text, kept

    def _encode(self, text: str, *, truncates: bool) -> list[int]:
        if not text:
            raise RequestError("prompt must not be empty.", param="prompt")
        if truncates:
            return self._tokenizer.encode(text)
        limit = self._info.max_model_len
        # No token is longer than the longest one: such a text need not be tokenised to be refused.
        at_least = -(-len(text) // self._tokenizer.longest_token)
        if at_least > limit:
            raise self._too_long(f"at least {at_least}")
        return self._tokenizer.encode(text)

    def _check_prompt_ids(self, token_ids: list[int]) -> None:
        if not token_ids:
            raise RequestError("prompt must not be empty.", param="prompt")
        if len(token_ids) >= self._info.max_model_len:
            raise self._too_long(str(len(token_ids)))
        self._check_vocabulary(token_ids, "prompt")

    def _too_long(self, num_tokens: str) -> ContextLengthError:
        limit = self._info.max_model_len
        return ContextLengthError(
            f"This model's maximum context length is {limit} tokens. However, your prompt has "
            f"{num_tokens} tokens. Shorten it to at most {limit - 1}, so that there is room for "
            "an answer."
        )

    def _check_vocabulary(self, token_ids: Iterable[int], param: str) -> None:
        size = self._info.vocab_size
        wrong = next((token for token in token_ids if not 0 <= token < size), None)
        if wrong is not None:
            raise RequestError(
                f"{param} holds the token id {wrong}; this model's ids go from 0 to {size - 1}.",
                param=param,
            )

    def _resolve(self, sampling: SamplingParams, prompt_len: int) -> SamplingParams:
        self._check_vocabulary(sampling.stop_token_ids, "stop_token_ids")
        self._check_vocabulary(sampling.logit_bias or (), "logit_bias")
        _check_unicode(sampling.stop_strings, "stop")
        room = self._info.max_model_len - prompt_len
        if sampling.min_tokens > room:
            raise RequestError(
                f"min_tokens is {sampling.min_tokens}, but a prompt of {prompt_len} tokens leaves "
                f"room for {room} in this model's context of {self._info.max_model_len}.",
                param="min_tokens",
            )
        wanted = sampling.max_tokens
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        return replace(
            sampling,
            max_tokens=room if wanted is None else min(wanted, room),
            seed=seed % _SEED_MODULUS,
        )


def _sequence_sampling(sampling: SamplingParams, index: int) -> SamplingParams:
    """The parameters of one of n sequences; the prompt's logprobs are computed once."""
    if sampling.n == 1:
        return sampling
    assert sampling.seed is not None
    return replace(
        sampling,
        n=1,
        seed=(sampling.seed + index) % _SEED_MODULUS,
        prompt_logprobs=sampling.prompt_logprobs if index == 0 else None,
    )


def _check_prompt_keys(fields: dict[str, object]) -> None:
    unknown = sorted(str(key) for key in fields.keys() - _PROMPT_KEYS)
    if unknown or not {"prompt", "prompt_token_ids"} & fields.keys():
        found = f" Unknown: {', '.join(unknown)}." if unknown else ""
        raise RequestError(
            f"A prompt dict has prompt or prompt_token_ids, and may have cache_salt.{found}",
            param="prompt",
        )


def _check_id_types(ids: object) -> list[int]:
    if not isinstance(ids, list) or not set(map(type, ids)) <= {int}:
        raise RequestError(
            "prompt token ids must be a list of integers.", param="prompt", code="invalid_type"
        )
    return ids


def _check_unicode(texts: Iterable[str], param: str) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"{param} is not valid Unicode: it holds an unpaired surrogate.", param=param
            ) from error


def _check_cache_salt(salt: str) -> None:
    _check_unicode([salt], "cache_salt")
    if len(salt.encode()) > MAX_CACHE_SALT_BYTES:
        raise RequestError(
            f"cache_salt must be at most {MAX_CACHE_SALT_BYTES} bytes.", param="cache_salt"
        )
