"""The way in for texts to embed and pairs to score: what can be refused is refused here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from windlass.config import ModelInfo, PoolingConfig, PoolingInfo
from windlass.errors import RequestError
from windlass.pooling import EmbedParams, PoolingOutput, ScoreParams, floats
from windlass.request import PoolingOptions, Request, RequestMetrics, SamplingParams
from windlass.text.pairs import Pair, PairEncoder, too_long
from windlass.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tokenizers import Encoding

MAX_CHARACTERS_PER_TOKEN = 128
"""Characters that a request may have for each token that it may have."""
_NO_SAMPLING: Final = SamplingParams()
_QUERY_PROMPTS, _DOCUMENT_PROMPTS = ("query",), ("document", "passage")


@dataclass(frozen=True, slots=True)
class PoolingJob:
    """The engine's requests for one call, and how their vectors become its answer.

    With `pairs`, a score is the product of two of the vectors; else, where it `scores`, a vector is
    one.
    """

    request_id: str
    requests: list[Request]
    scores: bool = False
    pairs: list[tuple[int, int]] | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens to compute."""
        return sum(len(request.prompt_token_ids) for request in self.requests)

    def output(self, vectors: list[bytes], metrics: RequestMetrics | None) -> PoolingOutput:
        """Return the answer from the vector of each request."""
        output = PoolingOutput(
            request_id=self.request_id, prompt_tokens=self.num_tokens, metrics=metrics
        )
        if not self.scores:
            output.vectors = vectors
        elif self.pairs is None:
            output.scores = [floats(vector)[0] for vector in vectors]
        else:
            output.scores = _products(vectors, self.pairs)
        return output


def _products(vectors: list[bytes], pairs: list[tuple[int, int]]) -> list[float]:
    """The scalar product of each pair: of vectors of length 1, their cosine."""
    import numpy as np

    matrix = np.stack([np.frombuffer(vector, "<f4") for vector in vectors])
    first, second = np.array(pairs).T
    products: list[float] = np.einsum("ij,ij->i", matrix[first], matrix[second]).tolist()
    return products


class PoolingProcessor:
    """Checks and tokenises what one model is to embed or to score."""

    def __init__(self, info: ModelInfo, tokenizer: Tokenizer, limits: PoolingConfig) -> None:
        assert info.pooling is not None
        self._info = info
        self._pooling: PoolingInfo = info.pooling
        self._tokenizer = tokenizer
        self._limits = limits
        self._pairs = PairEncoder(info, info.pooling, tokenizer)

    def embed(
        self,
        request_id: str,
        inputs: Sequence[str | list[int]],
        params: EmbedParams,
        *,
        priority: int = 0,
        arrival_time: float = 0.0,
    ) -> PoolingJob:
        """Return the job that embeds texts and token ids, which are taken as they are.

        Raises:
            ContextLengthError: an input is too long.
            RequestError: anything else is wrong; `param` names it.
        """
        if self._pooling.task != "embed":
            raise RequestError(
                "This model scores pairs of texts; it does not embed.", code="unsupported_endpoint"
            )
        self._check_size(len(inputs), sum(len(e) for e in inputs if isinstance(e, str)))
        options = PoolingOptions(
            dimensions=self._dimensions(params.dimensions),
            normalize=self._pooling.normalize if params.normalize is None else params.normalize,
        )
        prompt = self._prompt(params.prompt_name)
        token_ids = self._encode(inputs, prompt, self._room(params.truncate_prompt_tokens))
        skip = self._skipped(prompt)
        requests = [
            _request(
                f"{request_id}-{index}",
                ids,
                # Token ids get no prompt.
                _skipping(options, skip if isinstance(inputs[index], str) else 0),
                priority,
                arrival_time,
            )
            for index, ids in enumerate(token_ids)
        ]
        return self._checked(PoolingJob(request_id, requests))

    def score(
        self,
        request_id: str,
        pairs: Sequence[Pair],
        params: ScoreParams,
        *,
        priority: int = 0,
        arrival_time: float = 0.0,
    ) -> PoolingJob:
        """Return the job that scores pairs: a query and a document, or any two texts.

        Raises:
            ContextLengthError: a pair is too long.
            RequestError: anything else is wrong; `param` names it.
        """
        repeated = len(params.instruction or "")
        characters = sum(len(first) + len(second) + repeated for first, second in pairs)
        self._check_size(len(pairs), characters)
        if params.instruction is not None and not self._pooling.asks_yes_or_no:
            raise RequestError(
                "This model takes no instruction.",
                param="instruction",
                code="unsupported_parameter",
            )
        for pair in pairs:
            _check_text(*pair)
        shortened = self._pairs.shorten_documents(list(pairs), params.max_document_tokens)
        if self._pooling.task == "embed":
            return self._compare(request_id, shortened, params, priority, arrival_time)
        limit, cuts = self._room(params.truncate_prompt_tokens)
        encoded = self._pairs.encode(shortened, params, limit, cuts=cuts)
        requests = [
            _request(f"{request_id}-{index}", ids, options, priority, arrival_time)
            for index, (ids, options) in enumerate(encoded)
        ]
        return self._checked(PoolingJob(request_id, requests, scores=True))

    # -- checks ---------------------------------------------------------------------------

    def _check_size(self, count: int, characters: int) -> None:
        """Refuse what would take long to tokenise; a query counts once for each document."""
        most = self._limits.max_inputs
        if not 1 <= count <= most:
            raise RequestError(
                f"A request must have from 1 to {most} inputs, not {count}.", param="input"
            )
        most = self._limits.max_input_tokens * MAX_CHARACTERS_PER_TOKEN
        if characters > most:
            raise RequestError(
                f"The inputs have {characters} characters together; a request may have {most}.",
                param="input",
            )

    def _checked(self, job: PoolingJob) -> PoolingJob:
        most = self._limits.max_input_tokens
        if job.num_tokens > most:
            raise RequestError(
                f"The inputs have {job.num_tokens} tokens together; a request may have {most}.",
                param="input",
            )
        return job

    def _room(self, truncate: int | None) -> tuple[int, bool]:
        """Most tokens of an input, and whether a longer one is cut instead of refused."""
        limit = self._info.max_model_len
        if truncate is None or truncate == -1:
            return limit, truncate == -1
        if truncate > limit:
            raise RequestError(
                f"truncate_prompt_tokens is {truncate}, but the model takes {limit} tokens.",
                param="truncate_prompt_tokens",
            )
        return truncate, True

    def _dimensions(self, asked: int | None) -> int | None:
        pooling = self._pooling
        if asked is None or asked == pooling.dimensions:
            return None
        choices = pooling.matryoshka_dimensions
        if not pooling.matryoshka:
            raise RequestError(
                f"dimensions must be {pooling.dimensions}: this model's embeddings cannot be "
                "shortened.",
                param="dimensions",
                code="unsupported_parameter",
            )
        if asked > pooling.dimensions or (choices and asked not in choices):
            known = ", ".join(map(str, choices)) if choices else f"1 to {pooling.dimensions}"
            raise RequestError(
                f"dimensions must be one of {known}, not {asked}.", param="dimensions"
            )
        return asked

    # -- texts to embed -------------------------------------------------------------------

    def _prompt(self, name: str | None) -> str:
        prompts = self._pooling.prompts
        name = self._pooling.default_prompt if name is None else name
        if name is None:
            return ""
        if name not in prompts:
            known = ", ".join(sorted(prompts)) or "none"
            raise RequestError(
                f"prompt_name names no prompt of this model; it has {known}.", param="prompt_name"
            )
        return prompts[name]

    def _skipped(self, prompt: str) -> int:
        """Tokens of a prompt that a mean leaves out: those that no text follows but the end's."""
        if not prompt or self._pooling.include_prompt:
            return 0
        encoding = self._tokenizer.encode_batch([prompt])[0]
        return len(encoding.ids) - _specials_at_end(encoding)

    def _encode(
        self, inputs: Sequence[str | list[int]], prompt: str, room: tuple[int, bool]
    ) -> list[list[int]]:
        texts = []
        for entry in inputs:
            if isinstance(entry, str):
                _check_text(entry)
                texts.append(prompt + entry)
        encodings = iter(self._tokenizer.encode_batch(texts))
        limit, cuts = room
        result: list[list[int]] = []
        for index, entry in enumerate(inputs):
            if isinstance(entry, str):
                encoding = next(encodings)
                ids, at_end = encoding.ids, _specials_at_end(encoding)
            else:
                ids, at_end = self._check_ids(entry), 0
            if len(ids) > limit:
                if not cuts:
                    raise too_long(self._info, len(ids), index)
                at_end = min(at_end, limit)
                ids = ids[: limit - at_end] + ids[len(ids) - at_end :]
            result.append(ids)
        return result

    def _check_ids(self, ids: list[int]) -> list[int]:
        size = self._info.vocab_size
        if not ids or not (min(ids) >= 0 and max(ids) < size):
            raise RequestError(
                f"An input of token ids must have at least one, and ids from 0 to {size - 1}.",
                param="input",
            )
        return ids

    # -- pairs to compare -----------------------------------------------------------------

    def _compare(
        self,
        request_id: str,
        pairs: list[Pair],
        params: ScoreParams,
        priority: int,
        arrival_time: float,
    ) -> PoolingJob:
        """Embed each different text once, for the cosine of every pair."""
        room = self._room(params.truncate_prompt_tokens)
        options = PoolingOptions(normalize=True)
        places: dict[tuple[int, str], int] = {}
        indices = [
            (
                places.setdefault((0, query), len(places)),
                places.setdefault((1, document), len(places)),
            )
            for query, document in pairs
        ]
        requests: list[Request] = []
        prompts = [self._role_prompt(names) for names in (_QUERY_PROMPTS, _DOCUMENT_PROMPTS)]
        skips = [self._skipped(prompt) for prompt in prompts]
        by_role = [
            iter(self._encode([t for r, t in places if r == role], prompts[role], room))
            for role in (0, 1)
        ]
        for index, (role, _) in enumerate(places):
            opts = _skipping(options, skips[role])
            ids = next(by_role[role])
            requests.append(_request(f"{request_id}-{index}", ids, opts, priority, arrival_time))
        return self._checked(PoolingJob(request_id, requests, scores=True, pairs=indices))

    def _role_prompt(self, names: tuple[str, ...]) -> str:
        """The model's prompt for queries or for documents, or its default one."""
        known = self._pooling.prompts
        return next((known[name] for name in names if name in known), self._prompt(None))


def _check_text(*texts: str) -> None:
    if not all(texts):
        raise RequestError("An input must not be an empty text.", param="input")


def _specials_at_end(encoding: Encoding) -> int:
    """How many special tokens end it."""
    count = 0
    for special in reversed(encoding.special_tokens_mask):
        if not special:
            break
        count += 1
    return count


def _skipping(options: PoolingOptions, skip: int) -> PoolingOptions:
    return replace(options, skip_tokens=skip) if skip else options


def _request(
    request_id: str,
    token_ids: list[int],
    options: PoolingOptions,
    priority: int,
    arrival_time: float,
) -> Request:
    return Request(
        request_id=request_id,
        prompt_token_ids=token_ids,
        sampling=_NO_SAMPLING,
        arrival_time=arrival_time,
        priority=priority,
        pooling=options,
    )
