"""Offline generation: on a runner that counts, and on a real model with random weights."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_runners import RAISE, CountingRunner, answer, fast
from tokenizers import Tokenizer as TokenizersBackend

from windlass import LLM, AsyncEngine, EngineConfig, RequestOutput, SamplingParams
from windlass.config import CacheConfig, ModelConfig, SchedulerConfig
from windlass.errors import ConfigError, ContextLengthError, EngineDeadError, RequestError
from windlass.llm import demo_or
from windlass.step import StepPlan

FIVE = SamplingParams(max_tokens=5, seed=1)


def tokens(output: RequestOutput) -> list[int]:
    return list(output.outputs[0].token_ids)


@pytest.fixture
def config(tokenizer_folder: str) -> EngineConfig:
    return EngineConfig(
        model=ModelConfig(model=tokenizer_folder), scheduler=SchedulerConfig(max_num_seqs=4)
    )


@pytest.fixture
def llm(config: EngineConfig) -> Iterator[LLM]:
    with LLM.from_config(config, fast(config)) as llm:
        yield llm


def test_answers_come_in_the_order_of_the_prompts(llm: LLM) -> None:
    prompts = [[50 + i] * (1 + i) for i in range(30)]
    sampling = [SamplingParams(max_tokens=1 + (7 * i) % 30, seed=i) for i in range(30)]
    results = llm.generate(prompts, sampling)

    assert [result.prompt_token_ids for result in results] == prompts
    assert [tokens(result) for result in results] == [
        answer(prompt, 1 + (7 * i) % 30) for i, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ("rope", [[80, 79, 80, 69]]),
        (["rope", "hauls"], None),
        ([60, 61], [[60, 61]]),
        ([[60, 61], [62]], [[60, 61], [62]]),
        ({"prompt_token_ids": [60], "cache_salt": "a"}, [[60]]),
        ([{"prompt": "rope"}, "rope", {"prompt_token_ids": [7], "prompt": "x"}, [8]], None),
        ([], []),
    ],
    ids=str,
)
def test_prompts_in_every_form(llm: LLM, prompts: Any, expected: list[list[int]] | None) -> None:
    results = llm.generate(prompts, FIVE)

    if expected is not None and prompts != "rope":
        assert [result.prompt_token_ids for result in results] == expected
    for result in results:
        assert tokens(result) == answer(result.prompt_token_ids, 5)
        if result.prompt == "rope":
            assert result.prompt_token_ids == llm.get_tokenizer().encode("rope")


def test_n_answers_and_the_model_s_own_defaults(llm: LLM) -> None:
    (result,) = llm.generate([60], SamplingParams(n=3, max_tokens=4))
    assert [list(completion.token_ids) for completion in result.outputs] == [answer([60], 4)] * 3

    assert llm.get_default_sampling_params() == SamplingParams(temperature=0.5)
    (result,) = llm.generate([60])
    assert len(tokens(result)) == 16


def test_a_chat_is_rendered_and_answered_to_the_end_of_the_context(config: EngineConfig) -> None:
    small = EngineConfig(model=config.model, cache=CacheConfig(num_blocks=5, block_size=16))
    conversation = [{"role": "user", "content": "haul"}]
    with LLM.from_config(small, fast(small)) as llm:
        (result,) = llm.chat(conversation)
        assert result.prompt == "user: haul\n"
        assert len(result.prompt_token_ids) + len(tokens(result)) == 4 * 16 + 1
        results = llm.chat([conversation, conversation], FIVE)
        assert [len(tokens(result)) for result in results] == [5, 5]


@pytest.mark.parametrize(
    ("prompts", "sampling", "message"),
    [
        ([[60], []], FIVE, "empty"),
        ([[60], [60] * 5_000], FIVE, "context"),
        ([[60], [100_000]], FIVE, "100000"),
        ([[60], [61]], [FIVE], "1 entries for 2 prompts"),
        ([[60], 3.5], FIVE, "float"),
    ],
)
def test_a_wrong_prompt_is_refused_before_anything_runs(
    llm: LLM, prompts: Any, sampling: Any, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        llm.generate(prompts, sampling)
    assert llm.get_metrics().num_steps == 0
    assert tokens(llm.generate([60], FIVE)[0]) == answer([60], 5)


def test_a_prompt_that_the_cache_cannot_hold_is_refused_before_anything_runs(
    config: EngineConfig,
) -> None:
    small = EngineConfig(model=config.model, cache=CacheConfig(num_blocks=5, block_size=16))
    with LLM.from_config(small, fast(small)) as llm:
        with pytest.raises(ContextLengthError, match=r"(?i)kv cache"):
            llm.generate([[60], [60] * 100], FIVE)
        assert llm.get_metrics().num_steps == 0


def test_a_priority_per_prompt_decides_who_goes_first(config: EngineConfig) -> None:
    first: list[str] = []

    class WatchedRunner(CountingRunner):
        def launch(self, plan: StepPlan) -> Any:
            first.extend(row.request_id for row in plan.new_rows)
            return super().launch(plan)

    one_by_one = EngineConfig(
        model=config.model, scheduler=SchedulerConfig(max_num_seqs=1, policy="priority")
    )
    with LLM.from_config(one_by_one, WatchedRunner(one_by_one, 0.0)) as llm:
        llm.generate([[60], [61], [62]], FIVE, priority=[3, 1, 2])
        assert first == ["1", "2", "0"]
        with pytest.raises(RequestError, match="priority has 1 entries"):
            llm.generate([[60], [61]], FIVE, priority=[1])


def test_a_prompt_that_makes_a_step_fail_does_not_touch_the_others(llm: LLM) -> None:
    results = llm.generate([[60], [60, RAISE], [62]], FIVE)

    assert [result.outputs[0].finish_reason for result in results] == ["length", "error", "length"]
    assert tokens(results[2]) == answer([62], 5)


def test_an_interrupted_generate_leaves_an_engine_that_works(config: EngineConfig) -> None:
    class InterruptedRunner(CountingRunner):
        launches = 0

        def launch(self, plan: StepPlan) -> Any:
            self.launches += 1
            if self.launches == 5:
                raise KeyboardInterrupt
            return super().launch(plan)

    with LLM.from_config(config, InterruptedRunner(config, 0.0)) as llm:
        with pytest.raises(KeyboardInterrupt):
            llm.generate([[60], [61]], SamplingParams(max_tokens=100, seed=1))
        stats = llm.get_metrics()
        assert (stats.num_running, stats.num_waiting) == (0, 0)
        assert stats.num_free_blocks == stats.num_blocks


def test_the_prefix_cache_serves_again_until_it_is_reset(llm: LLM) -> None:
    prompt = [60] * 64
    assert llm.generate(prompt, FIVE)[0].num_cached_tokens == 0
    assert llm.generate(prompt, FIVE)[0].num_cached_tokens > 0
    assert llm.reset_prefix_cache()
    assert llm.generate(prompt, FIVE)[0].num_cached_tokens == 0
    assert llm.get_metrics().num_running == 0


def test_a_closed_llm_says_so(llm: LLM) -> None:
    llm.close()
    llm.close()
    with pytest.raises(EngineDeadError, match="closed"):
        llm.generate("rope", FIVE)


def test_settings_that_are_wrong_are_named() -> None:
    with pytest.raises(ConfigError, match=r"model\.dtype"):
        LLM(dtype="float99")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"model\.quantization"):
        LLM(quantization="int3")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="gpu_memory_utilization"):
        LLM(memory_utilization=0.5, gpu_memory_utilization=0.5)
    with pytest.raises(TypeError, match="no_such_setting"):
        LLM(no_such_setting=1)  # type: ignore[call-arg]


def test_without_a_model_the_demo_model_is_meant() -> None:
    assert demo_or("some/model") == "some/model"
    assert (Path(demo_or(None)) / "__init__.py").is_file()


@pytest.fixture(scope="module")
def llama_folder(tokenizer_folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Llama with seeded random weights, in Hugging Face format."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    folder = str(tmp_path_factory.mktemp("llama"))
    model.save_pretrained(folder)
    backend = TokenizersBackend.from_file(f"{tokenizer_folder}/tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)
    return folder


def reference(folder: str, prompt: list[int], max_tokens: int) -> list[int]:
    """What transformers generates greedily."""
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = model.generate(ids, max_new_tokens=max_tokens, do_sample=False, pad_token_id=0)
    return [int(token) for token in out[0, len(prompt) :]]


def test_a_real_model_gives_the_same_answers_offline_served_and_in_transformers(
    llama_folder: str,
) -> None:
    greedy = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    prompts = [[5, 6, 7], list(range(10, 60)), [200]]
    expected = [reference(llama_folder, prompt, 24) for prompt in prompts]

    with LLM(
        llama_folder, dtype="float32", backend="cpu", num_blocks=64, max_num_batched_tokens=16
    ) as llm:
        offline = [tokens(result) for result in llm.generate(prompts, greedy)]

    config = EngineConfig(
        model=ModelConfig(model=llama_folder, dtype="float32"), cache=CacheConfig(num_blocks=64)
    )

    async def serve() -> list[list[int]]:
        engine = await AsyncEngine.start(config)
        try:
            streams = [await engine.submit(prompt, greedy) for prompt in prompts]
            return [tokens([output async for output in stream][-1]) for stream in streams]
        finally:
            await engine.shutdown()

    assert offline == expected
    assert asyncio.run(serve()) == expected
