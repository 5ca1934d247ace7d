"""What every request must satisfy before it is queued, whichever way it came."""

from __future__ import annotations

from collections.abc import Collection

from windlass.config import ModelInfo
from windlass.errors import ContextLengthError, RequestError
from windlass.request import Request


def context_limit(info: ModelInfo) -> int:
    """Return the most tokens a sequence may have: `max_model_len`, or less in a small KV cache.

    The last token is never computed, so it needs no slot.
    """
    return min(info.max_model_len, (info.num_blocks - 1) * info.block_size + 1)


def check_request(request: Request, info: ModelInfo) -> int:
    """Return how many tokens the request may generate.

    Raises:
        ContextLengthError: the prompt leaves no room for an output token.
        RequestError: the prompt is empty, a token id is not in the vocabulary, or the model's
            runner cannot do what is asked.
    """
    prompt, sampling, limit = request.prompt_token_ids, request.sampling, context_limit(info)
    if not prompt:
        raise RequestError("The prompt must have at least one token.", param="prompt")
    if len(prompt) > limit - 1:
        bound = "the model's context" if limit == info.max_model_len else "the KV cache"
        raise ContextLengthError(
            f"The prompt has {len(prompt)} tokens. {bound.capitalize()} holds {limit} tokens, "
            f"at least one of them output: shorten the prompt to {limit - 1} tokens."
        )
    _check_token_ids(prompt, "prompt", info.vocab_size)
    _check_token_ids(sampling.stop_token_ids, "stop_token_ids", info.vocab_size)
    _check_token_ids(sampling.logit_bias or (), "logit_bias", info.vocab_size)
    _check_constraints(request, info)
    room = limit - len(prompt)
    return room if sampling.max_tokens is None else min(sampling.max_tokens, room)


def check_pooling_request(request: Request, info: ModelInfo) -> None:
    """Refuse what a model that embeds or scores cannot compute.

    Raises:
        ContextLengthError: the text is longer than the model takes.
        RequestError: it is empty, or a token id is not in the vocabulary.
    """
    tokens, limit = request.prompt_token_ids, info.max_model_len
    if request.pooling is None:
        raise RequestError("This model does not generate text.", code="unsupported_endpoint")
    if not tokens:
        raise RequestError("The input must have at least one token.", param="input")
    if len(tokens) > limit:
        raise ContextLengthError(
            f"The input has {len(tokens)} tokens; the model takes at most {limit}.", param="input"
        )
    _check_token_ids(tokens, "input", info.vocab_size)


def _check_constraints(request: Request, info: ModelInfo) -> None:
    """Refuse restrictions of the tokens that the runner does not know, or that leave none."""
    sampling = request.sampling
    allowed = sampling.allowed_token_ids
    asked = {
        "structured_outputs": sampling.structured_outputs is not None,
        "bad_words": bool(sampling.bad_words),
        "allowed_token_ids": allowed is not None,
        "extra_args": bool(sampling.extra_args),
    }
    unknown = next((name for name, is_set in asked.items() if is_set), None)
    if unknown is not None and not info.structured_outputs:
        raise RequestError(
            f"{unknown} is not supported by the {info.backend!r} backend's model runner.",
            param=unknown,
            code="unsupported_parameter",
        )
    for name in sampling.extra_args or ():
        if name not in info.logits_processors:
            raise RequestError(
                f"extra_args names a logits processor that is not enabled here: {name[:64]!r}.",
                param="extra_args",
            )
    if allowed is None:
        return
    if len(allowed) > info.vocab_size:
        raise RequestError(
            f"allowed_token_ids has {len(allowed)} entries; the vocabulary has {info.vocab_size}.",
            param="allowed_token_ids",
        )
    _check_token_ids(allowed, "allowed_token_ids", info.vocab_size)
    stops = {*sampling.stop_token_ids, *request.eos_token_ids}
    if sampling.min_tokens and stops.issuperset(allowed):
        raise RequestError(
            "allowed_token_ids holds only tokens that end the output, which min_tokens forbids.",
            param="allowed_token_ids",
        )


def _check_token_ids(token_ids: Collection[int], param: str, vocab_size: int) -> None:
    if token_ids and not (min(token_ids) >= 0 and max(token_ids) < vocab_size):
        wrong = next(token for token in token_ids if not 0 <= token < vocab_size)
        raise RequestError(
            f"{param} contains the token id {wrong}; ids go from 0 to {vocab_size - 1}.",
            param=param,
        )
