"""The model runner, plan by plan, against transformers."""

from typing import TYPE_CHECKING

import pytest
import torch
from transformers import LlamaForCausalLM

from windlass.backend import DenseWeight
from windlass.request import SamplingParams

if TYPE_CHECKING:
    from conftest import Driver

GREEDY = SamplingParams(temperature=0.0, logprobs=3)
PROMPT = [5, 17, 99, 3, 42, 64, 8, 23, 77, 11]


def expected_tokens(model: LlamaForCausalLM, prompt: list[int], n: int) -> list[int]:
    output = model.generate(
        torch.tensor([prompt]), max_new_tokens=n, min_new_tokens=n, do_sample=False
    )
    return [int(token) for token in output[0, len(prompt) :]]


def expected_logprobs(model: LlamaForCausalLM, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([tokens])).logits[0].float(), dim=-1)


def test_greedy_tokens_are_transformers(
    driver: "Driver", reference_model: LlamaForCausalLM
) -> None:
    tokens = driver.generate("a", PROMPT, GREEDY, 30)
    assert tokens == expected_tokens(reference_model, PROMPT, 30)


def test_chunks_and_mixed_steps_change_nothing(
    driver: "Driver", reference_model: LlamaForCausalLM
) -> None:
    new_a, a = driver.start("a", PROMPT, GREEDY, row=3, chunk=4)
    driver.step([a], [new_a])
    new_b, b = driver.start("b", PROMPT[::-1], GREEDY, row=1)
    first = driver.step([driver.chunk("a", PROMPT[4:], last=True), b], [new_b])
    got = {name: [first.tokens[name]] for name in "ab"}
    for i in range(1, 12):
        result = driver.step([driver.decode("b", i), driver.decode("a", i)])
        for name in "ab":
            got[name].append(result.tokens[name])
    assert got["a"] == expected_tokens(reference_model, PROMPT, 12)
    assert got["b"] == expected_tokens(reference_model, PROMPT[::-1], 12)


def test_logprobs_are_transformers(driver: "Driver", reference_model: LlamaForCausalLM) -> None:
    new, row = driver.start("a", PROMPT, GREEDY, row=0)
    result = driver.step([row], [new])
    logprobs = expected_logprobs(reference_model, PROMPT)[-1]
    entry = result.logprobs["a"]
    assert list(entry) == logprobs.topk(3).indices.tolist()
    for token, logprob in entry.items():
        assert logprob.logprob == pytest.approx(logprobs[token].item(), abs=1e-5)
    assert [logprob.rank for logprob in entry.values()] == [1, 2, 3]


def test_prompt_logprobs_are_transformers(
    driver: "Driver", reference_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    from windlass.executor import model_runner

    monkeypatch.setattr(model_runner, "_PROMPT_LOGPROB_ROWS", 4)
    sampling = SamplingParams(temperature=0.0, prompt_logprobs=2)
    new, row = driver.start("a", PROMPT, sampling, row=0, targets=PROMPT[1:])
    entries = driver.step([row], [new]).prompt_logprobs["a"]
    logprobs = expected_logprobs(reference_model, PROMPT)
    assert len(entries) == len(PROMPT) - 1
    for position, (target, entry) in enumerate(zip(PROMPT[1:], entries, strict=True)):
        assert next(iter(entry)) == target
        assert set(entry) == {target, *logprobs[position].topk(2).indices.tolist()}
        for token, logprob in entry.items():
            assert logprob.logprob == pytest.approx(logprobs[position, token].item(), abs=1e-5)


def test_a_seed_gives_the_same_tokens_in_any_batch(driver: "Driver") -> None:
    seeded = SamplingParams(temperature=1.3, top_p=0.95, top_k=50, seed=1234)
    alone = driver.generate("a", PROMPT, seeded, 10)
    other = SamplingParams(temperature=0.9, seed=99, presence_penalty=0.5, top_k=1 << 40)
    new_b, b = driver.start("b", PROMPT[:4], other, row=1)
    new_c, c = driver.start("c", PROMPT, seeded, row=5)
    result = driver.step([b, c], [new_b, new_c])
    tokens = [result.tokens["c"]]
    for i in range(1, 10):
        tokens.append(driver.step([driver.decode("c", i), driver.decode("b", i)]).tokens["c"])
    assert tokens == alone
    assert driver.generate("d", PROMPT, SamplingParams(temperature=1.3, seed=1235), 10) != alone


def test_a_bias_and_min_tokens_steer_the_choice(driver: "Driver") -> None:
    biased = SamplingParams(temperature=0.0, logit_bias={7: 100.0})
    assert driver.generate("a", PROMPT, biased, 3) == [7, 7, 7]
    patient = SamplingParams(
        temperature=0.0, logit_bias={7: 100.0, 8: 50.0}, min_tokens=2, max_tokens=5
    )
    new, row = driver.start("b", PROMPT, patient, row=0, stop_token_ids=(7,))
    tokens = [driver.step([row], [new]).tokens["b"]]
    tokens += [driver.step([driver.decode("b", i)]).tokens["b"] for i in range(1, 4)]
    assert tokens == [8, 8, 7, 7]


def test_penalties_count_prompt_and_output(driver: "Driver") -> None:
    sampling = SamplingParams(temperature=0.0, presence_penalty=2.0, logit_bias={7: 30.0, 8: 29.0})
    assert driver.generate("a", PROMPT[:5], sampling, 3)[:2] == [7, 8]
    repeated = SamplingParams(
        temperature=0.0, repetition_penalty=100.0, logit_bias={42: 30.0, 8: 29.0}
    )
    assert driver.generate("b", PROMPT[:5], repeated, 1) == [8]


def test_numbers_that_are_not_finite_fail_their_row_only(
    driver: "Driver", reference_model: LlamaForCausalLM
) -> None:
    embedding = driver.runner._decoder.embedding
    assert isinstance(embedding, DenseWeight)
    embedding.weight[126] = torch.nan
    new_a, a = driver.start("a", [5, 126, 7], GREEDY, row=0)
    new_b, b = driver.start("b", PROMPT, GREEDY, row=1)
    result = driver.step([a, b], [new_a, new_b])
    assert result.errors == {"a": "the model produced numbers that are not finite"}
    assert result.tokens == {"b": expected_tokens(reference_model, PROMPT, 1)[0]}


def test_decodes_over_the_same_rows_upload_nothing(driver: "Driver") -> None:
    driver.generate("a", PROMPT, GREEDY, 3)
    before = driver.runner._uploader.uploads
    driver.generate("b", PROMPT, GREEDY, 20)
    assert driver.runner._uploader.uploads == before + 1


def test_a_row_is_reused_with_new_parameters(
    driver: "Driver", reference_model: LlamaForCausalLM
) -> None:
    new, row = driver.start("a", PROMPT, SamplingParams(temperature=2.0, seed=1, logprobs=5), row=0)
    driver.step([row], [new])
    new, row = driver.start("b", PROMPT, SamplingParams(temperature=0.0), row=0)
    result = driver.launch([row], [new], freed=(0,)).collect()
    assert result.tokens["b"] == expected_tokens(reference_model, PROMPT, 1)[0]
    assert result.logprobs == {}


def test_a_step_that_raises_does_so_in_collect_and_reset_recovers(
    driver: "Driver", reference_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = driver.runner._decoder.forward

    def broken(*args: object) -> torch.Tensor:
        raise RuntimeError("kernel failed")

    monkeypatch.setattr(driver.runner._decoder, "forward", broken)
    new, row = driver.start("a", PROMPT, GREEDY, row=0)
    handle = driver.launch([row], [new])
    with pytest.raises(RuntimeError, match="kernel failed"):
        handle.collect()
    assert handle.done()
    monkeypatch.setattr(driver.runner._decoder, "forward", forward)
    driver.runner.reset()
    assert driver.generate("b", PROMPT, GREEDY, 5) == expected_tokens(reference_model, PROMPT, 5)
