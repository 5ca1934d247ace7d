"""The way out: what the engine says about sequences becomes what a client sees of a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from windlass.engine.outputs import SequenceOutput
from windlass.errors import RequestError
from windlass.request import (
    CompletionOutput,
    FinishReason,
    Logprob,
    RequestMetrics,
    RequestOutput,
    SamplingParams,
    TokenLogprobs,
)
from windlass.text.detokenizer import IncrementalDetokenizer
from windlass.text.input_processor import ProcessedRequest
from windlass.text.tokenizer import Tokenizer


class _Answer:
    """One of the n sequences of a request, as far as it has come."""

    def __init__(
        self, index: int, tokenizer: Tokenizer, sampling: SamplingParams, prompt_ids: list[int]
    ) -> None:
        self.index = index
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprobs] | None = None if sampling.logprobs is None else []
        self.cumulative_logprob = 0.0
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | str | None = None
        self._include_stop = sampling.include_stop_str_in_output
        self._tokenizer = tokenizer
        self._detokenizer = (
            IncrementalDetokenizer(tokenizer, sampling, prompt_ids) if sampling.detokenize else None
        )
        self._num_given = 0

    def take(self, output: SequenceOutput) -> None:
        """Take in news of the sequence; a stop string may end it before the engine does."""
        stop, num_used = self._detokenize(output)
        self._add_tokens(output.new_token_ids[:num_used], output.logprobs)
        if stop is not None:
            self.finish_reason, self.stop_reason = "stop", stop
        elif output.finished:
            self.finish_reason = output.finish_reason
            failed = output.finish_reason == "error"
            self.stop_reason = output.error if failed else output.stop_reason

    def _detokenize(self, output: SequenceOutput) -> tuple[str | None, int]:
        """The stop string found, and how many of the new tokens are the answer's."""
        new = output.new_token_ids
        if self._detokenizer is None:
            return None, len(new)
        before = self._detokenizer.num_tokens
        # The token that made the engine stop belongs to the answer, its text does not.
        silent = output.finish_reason == "stop" and not self._include_stop
        stop = self._detokenizer.append(new[:-1] if silent else new)
        if stop is not None:
            return stop, self._detokenizer.num_tokens - before
        if output.finished:
            stop = self._detokenizer.finish()
            if output.finish_reason in ("abort", "error"):
                stop = None
        return stop, len(new)

    def _add_tokens(self, token_ids: list[int], logprobs: list[TokenLogprobs] | None) -> None:
        self.token_ids.extend(token_ids)
        if self.logprobs is None or logprobs is None:
            return
        for token_id, entry in zip(token_ids, logprobs, strict=False):
            self.cumulative_logprob += entry[token_id].logprob
            self.logprobs.append(self.decode_logprobs(entry))

    def decode_logprobs(self, entry: TokenLogprobs) -> TokenLogprobs:
        """The same entry with each token's text, unless detokenizing is off."""
        if self._detokenizer is None:
            return entry
        return {
            token_id: Logprob(found.logprob, found.rank, self._tokenizer.token_text(token_id))
            for token_id, found in entry.items()
        }

    def completion(self, delta: bool) -> CompletionOutput:
        """The whole answer so far, or what is new since the last call."""
        start = self._num_given if delta else 0
        self._num_given = len(self.token_ids)
        text = ""
        if self._detokenizer is not None:
            text = self._detokenizer.take_delta() if delta else self._detokenizer.text
        return CompletionOutput(
            index=self.index,
            text=text,
            token_ids=self.token_ids[start:],
            cumulative_logprob=None if self.logprobs is None else self.cumulative_logprob,
            logprobs=None if self.logprobs is None else self.logprobs[start:],
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
        )


@dataclass(slots=True)
class _OpenRequest:
    """A request with at least one unfinished answer."""

    processed: ProcessedRequest
    delta: bool
    final_only: bool
    answers: dict[str, _Answer]
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    num_cached_tokens: int = 0
    metrics: RequestMetrics | None = None
    changed: set[int] = field(default_factory=set)
    num_open: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_open = len(self.answers)

    @property
    def finished(self) -> bool:
        return not self.num_open

    def take(self, answer: _Answer, output: SequenceOutput) -> None:
        """Take in news of one answer."""
        answer.take(output)
        self.changed.add(answer.index)
        self.num_cached_tokens = max(self.num_cached_tokens, output.num_cached_tokens)
        self.metrics = _merge_metrics(self.metrics, output.metrics)
        if output.prompt_logprobs is not None:
            self.prompt_logprobs = [
                None if entry is None else answer.decode_logprobs(entry)
                for entry in output.prompt_logprobs
            ]

    def report(self) -> RequestOutput:
        """The request's state, or what is new of it; forgets what changed."""
        answers = [
            answer
            for answer in self.answers.values()
            if not self.delta or answer.index in self.changed
        ]
        self.changed.clear()
        prompt_logprobs = self.prompt_logprobs
        if self.delta:
            self.prompt_logprobs = None
        return RequestOutput(
            request_id=self.processed.request_id,
            prompt=self.processed.prompt,
            prompt_token_ids=self.processed.prompt_token_ids,
            outputs=[answer.completion(self.delta) for answer in answers],
            finished=self.finished,
            prompt_logprobs=prompt_logprobs,
            num_cached_tokens=self.num_cached_tokens,
            metrics=self.metrics,
        )


class OutputProcessor:
    """Turns the engine's outputs into request outputs; keeps state of unfinished requests only.

    Not for several threads at once.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._requests: dict[str, _OpenRequest] = {}
        self._owners: dict[str, str] = {}

    @property
    def num_requests(self) -> int:
        """Requests that are not finished."""
        return len(self._requests)

    def add(self, processed: ProcessedRequest, *, delta: bool, final_only: bool = False) -> None:
        """Expect outputs for this request.

        `delta` reports only what is new since the last report (and only the answers that have
        news); otherwise each report holds everything so far. `final_only` reports once, at the
        end: the cheapest for a caller that does not stream.

        Raises:
            RequestError: the request's id, or that of one of its sequences, is in use.
        """
        ids = [request.request_id for request in processed.requests]
        if processed.request_id in self._requests or not self._owners.keys().isdisjoint(ids):
            raise RequestError(
                f"request_id {processed.request_id!r} is already in use.", param="request_id"
            )
        answers = {
            request.request_id: _Answer(
                index, self._tokenizer, request.sampling, request.prompt_token_ids
            )
            for index, request in enumerate(processed.requests)
        }
        self._requests[processed.request_id] = _OpenRequest(processed, delta, final_only, answers)
        self._owners.update(dict.fromkeys(answers, processed.request_id))

    def update(self, outputs: Sequence[SequenceOutput]) -> tuple[list[RequestOutput], list[str]]:
        """Take in a step's outputs; returns reports, and the sequence ids to abort in the engine.

        A sequence is to be aborted when a stop string ended it here. It is then finished with
        "stop", `stop_reason` is the stop string, and `token_ids` end with the token that completed
        it. A sequence that failed has `finish_reason` "error" and the engine's message as
        `stop_reason`. Outputs of unknown sequences (late ones, after an abort) are ignored.
        """
        changed: dict[str, _OpenRequest] = {}
        to_abort: list[str] = []
        for output in outputs:
            owner = self._owners.get(output.request_id)
            if owner is None:
                continue
            request = self._requests[owner]
            answer = request.answers[output.request_id]
            request.take(answer, output)
            changed[owner] = request
            if answer.finish_reason is not None:
                request.num_open -= 1
                del self._owners[output.request_id]
                if not output.finished:
                    to_abort.append(output.request_id)
        return self._reports(changed), to_abort

    def abort(self, request_id: str) -> list[str]:
        """Forget a request; returns its unfinished sequence ids, to abort in the engine."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return []
        open_ids = [sequence_id for sequence_id in request.answers if sequence_id in self._owners]
        for sequence_id in open_ids:
            del self._owners[sequence_id]
        return open_ids

    def _reports(self, changed: dict[str, _OpenRequest]) -> list[RequestOutput]:
        reports = []
        for request_id, request in changed.items():
            finished = request.finished
            if finished:
                del self._requests[request_id]
            if finished or not request.final_only:
                reports.append(request.report())
        return reports


def _merge_metrics(
    known: RequestMetrics | None, new: RequestMetrics | None
) -> RequestMetrics | None:
    """Of several answers: the earliest start and first token, the latest end."""
    if known is None or new is None:
        return known or new
    return RequestMetrics(
        arrival_time=min(known.arrival_time, new.arrival_time),
        queue_time=min(known.queue_time, new.queue_time),
        time_to_first_token=min(known.time_to_first_token, new.time_to_first_token),
        total_time=max(known.total_time, new.total_time),
        num_preemptions=known.num_preemptions + new.num_preemptions,
    )
