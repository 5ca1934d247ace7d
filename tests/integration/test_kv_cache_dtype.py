"""The whole engine over a quantised KV cache: what is stored of a token does not depend on how it
came to be computed, and answers stay close to those of a plain cache."""

from collections.abc import Iterator

import pytest
import torch

from windlass import LLM, EngineConfig, SamplingParams, demo_model
from windlass.config import (
    BackendConfig,
    CacheConfig,
    DType,
    KVCacheDType,
    ModelConfig,
    SchedulerConfig,
)
from windlass.request import RequestOutput

PROMPTS = [
    "How do I tie a rope so that it does not slip?",
    "Explain in detail what a windlass is for, who uses one on a ship, and how it differs from "
    "a capstan. Then say which of the two you would rather have in a storm, and why.",
    "Hello!",
    "Write a short story about an anchor.",
]
GREEDY = SamplingParams(temperature=0.0, max_tokens=40, logprobs=0, ignore_eos=True)
QUANTIZED: list[KVCacheDType] = ["int8", "fp8"]


def engine(
    kv_cache_dtype: KVCacheDType,
    *,
    dtype: DType = "float32",
    num_blocks: int = 100,
    max_num_batched_tokens: int = 2048,
    enable_prefix_caching: bool = False,
) -> LLM:
    return LLM.from_config(
        EngineConfig(
            model=ModelConfig(model=str(demo_model.path()), dtype=dtype),
            cache=CacheConfig(
                block_size=16,
                num_blocks=num_blocks,
                enable_prefix_caching=enable_prefix_caching,
                dtype=kv_cache_dtype,
            ),
            scheduler=SchedulerConfig(
                max_num_seqs=8, max_num_batched_tokens=max_num_batched_tokens
            ),
            backend=BackendConfig(backend="cpu"),
        )
    )


def tokens(outputs: list[RequestOutput]) -> list[list[int]]:
    return [list(output.outputs[0].token_ids) for output in outputs]


@pytest.fixture(scope="module", params=QUANTIZED)
def kv_cache_dtype(request: pytest.FixtureRequest) -> KVCacheDType:
    dtype: KVCacheDType = request.param
    return dtype


@pytest.fixture(scope="module")
def expected(kv_cache_dtype: KVCacheDType) -> Iterator[list[list[int]]]:
    """Each prompt alone, in one chunk."""
    with engine(kv_cache_dtype) as llm:
        assert llm.info.kv_cache_dtype == kv_cache_dtype
        yield [tokens(llm.generate([prompt], GREEDY))[0] for prompt in PROMPTS]


def test_chunked_prefill_gives_the_same_tokens(
    kv_cache_dtype: KVCacheDType, expected: list[list[int]]
) -> None:
    with engine(kv_cache_dtype, max_num_batched_tokens=7) as llm:
        assert tokens(llm.generate(PROMPTS, GREEDY)) == expected


def test_a_cached_prefix_gives_the_same_tokens(
    kv_cache_dtype: KVCacheDType, expected: list[list[int]]
) -> None:
    with engine(kv_cache_dtype, enable_prefix_caching=True) as llm:
        assert tokens(llm.generate(PROMPTS, GREEDY)) == expected
        again = llm.generate(PROMPTS, GREEDY)
    assert tokens(again) == expected
    assert sum(output.num_cached_tokens or 0 for output in again) >= 16


def test_preemption_gives_the_same_tokens(
    kv_cache_dtype: KVCacheDType, expected: list[list[int]]
) -> None:
    with engine(kv_cache_dtype, num_blocks=12) as llm:
        outputs = llm.generate(PROMPTS, GREEDY)
    assert tokens(outputs) == expected
    assert any(output.metrics and output.metrics.num_preemptions for output in outputs)


def logprobs(llm: LLM, texts: list[list[int]]) -> list[torch.Tensor]:
    """The log-probability of every token of every text but its first."""
    sampling = SamplingParams(max_tokens=1, prompt_logprobs=0)
    outputs = llm.generate([{"prompt_token_ids": text} for text in texts], sampling)
    return [
        torch.tensor(
            [
                entry[token].logprob
                for token, entry in zip(text, output.prompt_logprobs or [], strict=True)
                if entry is not None
            ]
        )
        for text, output in zip(texts, outputs, strict=True)
    ]


def test_answers_are_about_as_probable_as_over_a_plain_cache() -> None:
    """The mean distance of the answers' log-probabilities; docs/kv-cache.md has what was
    measured, the bounds are twice that."""
    with engine("auto") as llm:
        outputs = llm.generate(PROMPTS, GREEDY)
        texts = [
            list(output.prompt_token_ids) + answer
            for output, answer in zip(outputs, tokens(outputs), strict=True)
        ]
        plain = logprobs(llm, texts)
    for kv_cache_dtype, bound in zip(QUANTIZED, (0.02, 0.06), strict=True):
        with engine(kv_cache_dtype) as llm:
            quantized = logprobs(llm, texts)
        distance = torch.cat(
            [(one - other)[-40:].abs() for one, other in zip(plain, quantized, strict=True)]
        )
        assert 0 < distance.mean() < bound
