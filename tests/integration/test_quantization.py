"""Quantised weights through the whole engine, on the demo model, whose answers mean something."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from windlass import LLM, SamplingParams
from windlass.config import Quantization

FORMATS: tuple[Quantization, ...] = ("int8", "int4", "fp8")
QUESTIONS = (
    "What is Windlass?",
    "what is a windlass",
    "Who are you?",
    "What is PagedAttention?",
    "How do I start the server?",
    "Count from 3 to 7.",
    "Which day comes after Monday?",
    "What is the capital of France?",
    "Tell me a story about a fox.",
)
TALKS = [[{"role": "user", "content": question}] for question in QUESTIONS]
GREEDY = SamplingParams(temperature=0, max_tokens=200, logprobs=0)
READ = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)


def demo(quantization: Quantization | None) -> LLM:
    return LLM(
        quantization=quantization, backend="cpu", num_blocks=256, enable_prefix_caching=False
    )


@pytest.fixture(scope="module")
def plain() -> Iterator[LLM]:
    with demo(None) as llm:
        yield llm


@pytest.fixture(scope="module", params=FORMATS)
def rounded(request: pytest.FixtureRequest) -> Iterator[LLM]:
    with demo(request.param) as llm:
        yield llm


def answers(llm: LLM) -> list[str]:
    return [output.outputs[0].text for output in llm.chat(TALKS, GREEDY)]


def prompt_logprobs(llm: LLM, prompts: list[list[int]]) -> list[float]:
    """Of every token that is really there, in all prompts."""
    found = []
    for output in llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], READ):
        assert output.prompt_logprobs is not None
        for token, entry in zip(output.prompt_token_ids, output.prompt_logprobs, strict=True):
            found += [entry[token].logprob] if entry else []
    return found


def test_most_greedy_answers_are_those_of_bf16(plain: LLM, rounded: LLM) -> None:
    equal = [a == b for a, b in zip(answers(plain), answers(rounded), strict=True)]
    print(f"{rounded.info.quantization}: {sum(equal)} of {len(equal)} answers are bf16's")
    assert sum(equal) >= 7


def test_logprobs_stay_near_those_of_bf16(plain: LLM, rounded: LLM) -> None:
    prompts = [
        [*output.prompt_token_ids, *output.outputs[0].token_ids]
        for output in plain.chat(TALKS, GREEDY)
    ]
    exact, found = prompt_logprobs(plain, prompts), prompt_logprobs(rounded, prompts)
    far = [abs(a - b) for a, b in zip(exact, found, strict=True)]
    mean = sum(far) / len(far)
    print(f"{rounded.info.quantization}: logprobs differ by {mean:.4f} on average, {max(far):.2f}")
    assert mean < {"int8": 0.05, "int4": 0.2, "fp8": 0.1}[str(rounded.info.quantization)]


def test_what_others_ask_changes_no_answer(rounded: LLM) -> None:
    batched = [output.outputs[0] for output in rounded.chat(TALKS, GREEDY)]
    alone = [rounded.chat([talk], GREEDY)[0].outputs[0] for talk in TALKS]
    assert [one.token_ids for one in alone] == [one.token_ids for one in batched]
    off = [
        abs((one.cumulative_logprob or 0.0) - (other.cumulative_logprob or 0.0))
        for one, other in zip(alone, batched, strict=True)
    ]
    if rounded.info.quantization != "fp8":
        assert max(off) < 1e-3
        return
    # torch sums fp8's fp32 products in an order that depends on the number of rows, and a last bit
    # can turn a rounding to bf16: then one token is some hundredths off, and all others are not.
    assert sum(off) / sum(len(one.token_ids) for one in alone) < 1e-3


def test_the_engine_reports_format_and_bytes(plain: LLM, rounded: LLM) -> None:
    assert plain.info.quantization is None
    assert rounded.info.quantization in FORMATS
    assert rounded.info.weight_bytes < 0.7 * plain.info.weight_bytes
