"""A model with random weights is the hardest tester: it writes whatever it is not kept from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace
from output_judge import fault

from windlass import LLM, SamplingParams, StructuredOutputs
from windlass.errors import RequestError
from windlass.request import CompletionOutput
from windlass.testing.json_schemas import SCHEMAS

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    # Few blocks and a small budget: requests are preempted, prompts computed in chunks.
    with LLM(
        load_format="dummy",
        dtype="float32",
        max_model_len=256,
        max_num_seqs=8,
        num_blocks=24,
        block_size=16,
        max_num_batched_tokens=24,
    ) as model:
        yield model


def params(schema: Any, **sampling: Any) -> SamplingParams:
    defaults = {"max_tokens": 80, "temperature": 1.0, "seed": 7}
    constraint = StructuredOutputs(json=schema)
    return SamplingParams(structured_outputs=constraint, **{**defaults, **sampling})


def free(**sampling: Any) -> SamplingParams:
    return SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True, **sampling)


def faults(schema: Any, answer: CompletionOutput) -> list[str]:
    """What is wrong with an answer that ended by itself."""
    assert answer.finish_reason in ("stop", "length")
    found = fault(schema, answer.text) if answer.finish_reason == "stop" else ""
    return [found] if found else []


def test_every_finished_output_satisfies_its_schema_in_a_churning_batch(llm: LLM) -> None:
    """Random, greedy and several answers, beside requests that nothing constrains."""
    asked: list[tuple[Any, SamplingParams]] = [(None, free())]
    for i, schema in enumerate(SCHEMAS.values()):
        asked.append((schema, params(schema, seed=i)))
        if i % 3 == 0:
            asked.append((schema, params(schema, temperature=0.0)))
        if i % 5 == 0:
            asked.append((schema, params(schema, n=2, top_p=0.9, repetition_penalty=1.1)))
        if i % 10 == 0:
            asked.append((None, free(logprobs=1)))
    before = llm.get_metrics().num_preemptions
    results = llm.generate([PROMPT * (1 + i % 9) for i in range(len(asked))], [p for _, p in asked])

    wrong, finished, alone = [], 0, {}
    for i, ((schema, sampling), result) in enumerate(zip(asked, results, strict=True)):
        for answer in result.outputs:
            if schema is None:
                alone.setdefault(result.prompt, list(answer.token_ids))
                assert len(answer.token_ids) == sampling.max_tokens, i
            else:
                finished += answer.finish_reason == "stop"
                wrong += faults(schema, answer)
    assert wrong == []
    assert finished > len(SCHEMAS) / 2
    assert llm.get_metrics().num_preemptions > before
    # Those that nothing constrains are what they are without company.
    for prompt, tokens in alone.items():
        assert prompt is not None
        (result,) = llm.generate(prompt, free())
        assert list(result.outputs[0].token_ids) == tokens


def test_a_regular_expression_a_choice_and_a_grammar_are_kept_to(llm: LLM) -> None:
    sampling = [
        SamplingParams(structured_outputs=constraint, temperature=0.8, seed=1, max_tokens=40)
        for constraint in (
            StructuredOutputs(regex=r"[a-f]{3}-\d{2,4}"),
            StructuredOutputs(choice=("yes", "no", "perhaps not")),
            StructuredOutputs(grammar='start: "<" /[0-9]{3}/ ">"'),
            StructuredOutputs(json_object=True),
        )
    ]
    regex, choice, grammar, _ = (r.outputs[0] for r in llm.generate([PROMPT] * 4, sampling))
    assert re.fullmatch(r"[a-f]{3}-\d{2,4}", regex.text)
    assert choice.text in ("yes", "no", "perhaps not")
    assert re.fullmatch("<[0-9]{3}>", grammar.text)
    assert {answer.finish_reason for answer in (regex, choice, grammar)} == {"stop"}


def test_a_limit_cuts_an_output_and_says_so(llm: LLM) -> None:
    (result,) = llm.generate(PROMPT, params(SCHEMAS["openai_strict"], max_tokens=3))
    assert result.outputs[0].finish_reason == "length"


def test_a_stop_token_is_written_only_where_the_output_is_complete(llm: LLM) -> None:
    tokenizer, schema = llm.get_tokenizer(), SCHEMAS["array_items"]
    commas = [i for i in range(tokenizer.vocab_size) if b"," in tokenizer.token_bytes(i)]
    sampling = params(schema, stop_token_ids=tuple(commas))
    for result in llm.generate([PROMPT] * 6, [replace(sampling, seed=i) for i in range(6)]):
        assert result.outputs[0].finish_reason == "stop"
        assert fault(schema, result.outputs[0].text) == ""


def test_bad_words_are_not_written(llm: LLM) -> None:
    words = ["e", "th", " "]
    sampling = SamplingParams(bad_words=words, max_tokens=60, seed=5, min_tokens=50)
    (result,) = llm.generate(PROMPT, sampling)
    assert len(result.outputs[0].token_ids) > 50
    assert not any(word in result.outputs[0].text for word in words)


def test_only_allowed_tokens_are_written(llm: LLM) -> None:
    sampling = SamplingParams(allowed_token_ids=[400, 37, 1999, 37], max_tokens=30, seed=5)
    mixed = [sampling, params(SCHEMAS["integer"]), free(), sampling]
    results = llm.generate([PROMPT] * 4, mixed)
    for i in (0, 3):
        assert set(results[i].outputs[0].token_ids) <= {400, 37, 1999}
    assert len(set(results[0].outputs[0].token_ids)) > 1
    assert faults(SCHEMAS["integer"], results[1].outputs[0]) == []


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        (params({"not": {}}), "structured_outputs"),
        (SamplingParams(allowed_token_ids=[2048]), "allowed_token_ids"),
        (SamplingParams(allowed_token_ids=[1] * 2049), "allowed_token_ids"),
        (SamplingParams(allowed_token_ids=[2], min_tokens=1), "allowed_token_ids"),
        (SamplingParams(extra_args={"nobody": 1}), "extra_args"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(
    llm: LLM, wrong: SamplingParams, param: str
) -> None:
    steps = llm.get_metrics().num_steps
    with pytest.raises(RequestError) as caught:
        llm.generate([PROMPT, PROMPT], [free(), wrong])
    assert caught.value.param == param
    assert llm.get_metrics().num_steps == steps


def test_the_beginning_of_a_prompt_is_cut(llm: LLM) -> None:
    tokens = llm.get_tokenizer().encode(PROMPT * 200)
    for keep, left in ((3, 3), (-1, 255)):
        sampling = SamplingParams(max_tokens=1, truncate_prompt_tokens=keep)
        (result,) = llm.generate(PROMPT * 200, sampling)
        assert result.prompt_token_ids == tokens[-left:]
        assert result.prompt == llm.get_tokenizer().decode(tokens[-left:])
