"""Runs random prompts through an engine in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence

from windlass.commands.bench.random_prompts import RandomPrompt
from windlass.errors import EngineError
from windlass.llm import LLM
from windlass.request import SamplingParams
from windlass.text import Prompt, TokensPrompt


def run_batch(llm: LLM, requests: Sequence[RandomPrompt], *, show_progress: bool) -> float:
    """Generate every request to its full length, greedily and all at once; returns seconds.

    Raises:
        EngineError: an answer came out shorter.
    """
    prompts: list[Prompt] = [
        TokensPrompt(prompt_token_ids=request.token_ids) for request in requests
    ]
    sampling = [
        SamplingParams(
            temperature=0.0, max_tokens=request.output_len, ignore_eos=True, detokenize=False
        )
        for request in requests
    ]
    start = time.perf_counter()
    outputs = llm.generate(prompts, sampling, use_tqdm=show_progress)
    seconds = time.perf_counter() - start
    for request, output in zip(requests, outputs, strict=True):
        made = len(output.outputs[0].token_ids)
        if made != request.output_len:
            raise EngineError(
                f"an answer has {made} of {request.output_len} tokens "
                f"(finish reason {output.outputs[0].finish_reason})"
            )
    return seconds
