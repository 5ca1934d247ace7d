"""The fields that chat completions and completions share, and the way to `SamplingParams`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from windlass.errors import RequestError
from windlass.request import SamplingParams
from windlass_server.errors import invalid_request
from windlass_server.protocol.fields import FIRST_FAULT, Body, Integer, ModelBody, StringOrStrings
from windlass_server.protocol.structured_output import ConstraintFields, structured_outputs

MAX_CACHE_SALT = 1024

_SAME_NAME = (
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "ignore_eos",
    "min_tokens",
    "prompt_logprobs",
    "skip_special_tokens",
    "include_stop_str_in_output",
    "bad_words",
    "allowed_token_ids",
    "truncate_prompt_tokens",
)


class StreamOptions(Body):
    """What a stream tells beside the text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class SamplingFields(ConstraintFields, ModelBody):
    """What every generating request may carry; null means the default.

    Beyond OpenAI's fields these are vLLM's, under vLLM's names.
    """

    n: Integer | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Integer | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: Integer | None = None
    stop: StringOrStrings | None = None
    stop_token_ids: Annotated[list[Integer], FIRST_FAULT] | None = None
    ignore_eos: bool | None = None
    max_tokens: Integer | None = None
    min_tokens: Integer | None = None
    prompt_logprobs: Integer | None = None
    logit_bias: dict[str, float] | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    bad_words: Annotated[list[str], FIRST_FAULT] | None = None
    allowed_token_ids: Annotated[list[Integer], FIRST_FAULT] | None = None
    truncate_prompt_tokens: Integer | None = None
    extra_args: dict[str, Any] | None = None
    vllm_xargs: dict[str, Any] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: Integer | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=MAX_CACHE_SALT)] | None = None
    user: str | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def wants_continuous_usage(self) -> bool:
        """Whether every chunk of a stream carries the usage so far."""
        return self.wants_usage and bool(
            self.stream_options and self.stream_options.continuous_usage_stats
        )

    def sampling_params(self, defaults: dict[str, Any], **overrides: int | None) -> SamplingParams:
        """Combine the model's `defaults`, what the client set and the route's `overrides`.

        Raises:
            ApiError: 400 naming the field that is out of range.
        """
        chosen = {name: getattr(self, name) for name in _SAME_NAME}
        chosen["stop_token_ids"] = tuple(self.stop_token_ids) if self.stop_token_ids else None
        chosen["logit_bias"] = _token_biases(self.logit_bias)
        chosen["structured_outputs"] = structured_outputs(self)
        chosen["extra_args"] = {**(self.vllm_xargs or {}), **(self.extra_args or {})} or None
        given = {name: value for name, value in chosen.items() if value is not None}
        try:
            return SamplingParams(**{**defaults, **given, **overrides})
        except RequestError as exc:
            raise invalid_request(exc.message, exc.param, exc.code) from None


def _token_biases(biases: dict[str, float] | None) -> dict[int, float] | None:
    if not biases:
        return None
    for token in biases:
        if not (token.isascii() and token.isdigit() and len(token) <= 18):
            raise invalid_request(
                "'logit_bias' must be keyed by token ids.", "logit_bias", "invalid_value"
            )
    return {int(token): bias for token, bias in biases.items()}
