"""An engine against transformers: the same tokens, the same log-probabilities.

Greedy tokens are checked by teacher forcing: transformers computes logits over prompt and output
in one pass without a cache, and each token of ours must be its most probable one. By induction
that is equality with its greedy generation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from windlass.engine.core import EngineCore
from windlass.request import Request, SamplingParams
from windlass.testing.engine_harness import Generation

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def greedy_requests(
    prompts: Iterable[Sequence[int]],
    *,
    max_tokens: int,
    prefix: str = "r",
    logprobs: int | None = 0,
    prompt_logprobs: int | None = None,
) -> list[Request]:
    """A request for each prompt, named `prefix` and its number, that no token ends early."""
    sampling = SamplingParams(
        temperature=0.0,
        max_tokens=max_tokens,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        ignore_eos=True,
    )
    return [
        Request(request_id=f"{prefix}{i}", prompt_token_ids=list(prompt), sampling=sampling)
        for i, prompt in enumerate(prompts)
    ]


def run_requests(
    core: EngineCore, requests: Iterable[Request], abort_after: Mapping[str, int] | None = None
) -> dict[str, Generation]:
    """Drive the engine until it is idle; `abort_after` maps request ids to steps.

    Raises:
        AssertionError: blocks of the cache are still held when nothing runs any more.
    """
    generations = {}
    for request in requests:
        core.add_request(request)
        generations[request.request_id] = Generation()
    steps = 0
    while core.has_work:
        steps += 1
        core.abort([name for name, step in (abort_after or {}).items() if step == steps])
        for output in core.step():
            generations[output.request_id].take(output)
    stats = core.stats()
    held = stats.num_blocks - stats.num_free_blocks
    if held:
        raise AssertionError(f"{held} blocks are still held though every request has ended")
    return generations


@dataclass(frozen=True)
class Distance:
    """How far a generation is from transformers'.

    `wrong` counts tokens that are not the most probable one; `regret` is how much less probable
    the worst of them is (as a difference of log-probabilities); `logprob` is the largest
    difference among all log-probabilities that the engine told.
    """

    wrong: int
    regret: float
    logprob: float


def distance(model: PreTrainedModel, prompt: Sequence[int], said: Generation) -> Distance:
    """Compare a greedy generation that came with log-probabilities."""
    with torch.inference_mode():
        tokens = torch.tensor([[*prompt, *said.token_ids]])
        reference = torch.log_softmax(model(tokens).logits[0].float(), dim=-1)
    entries = [*(said.prompt_logprobs or [None] * len(prompt))[1:], *said.logprobs]
    largest = 0.0
    for row, entry in zip(reference, entries, strict=False):
        for token, told in (entry or {}).items():
            off = abs(float(row[token]) - told.logprob)
            # NaN is farther than any number.
            largest = off if not off <= largest else largest
    chosen = reference[len(prompt) - 1 : -1]
    ours = chosen.gather(-1, torch.tensor(said.token_ids)[:, None])[:, 0]
    regrets = chosen.amax(-1) - ours
    wrong = int((chosen.argmax(-1) != torch.tensor(said.token_ids)).sum())
    return Distance(wrong, float(regrets.max()), largest)
