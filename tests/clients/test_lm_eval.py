"""`lm-eval`: log-likelihoods through text completions with echo, and generation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("lm_eval", reason="the extra 'clients' is not installed")

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

from windlass import LLM, SamplingParams, demo_model

if TYPE_CHECKING:
    from tests.clients.conftest import Served

pytestmark = pytest.mark.filterwarnings("default")
"""What others' packages warn of is theirs."""

CONTEXT, CONTINUATION = "The windlass hauls", " the rope."


@pytest.fixture(scope="module")
def model(served: Served) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", served.key)
        yield LocalCompletionsAPI(
            model=served.model,
            base_url=f"{served.api}/completions",
            tokenizer=str(demo_model.path()),
            tokenizer_backend="huggingface",
            num_concurrent=1,
            max_length=256,
        )


def test_a_log_likelihood_is_the_engines_own(model: Any) -> None:
    [(value, greedy)] = model.loglikelihood(
        [Instance("loglikelihood", {}, (CONTEXT, CONTINUATION), 0)], disable_tqdm=True
    )
    llm = LLM(str(demo_model.path()))
    tokens = llm.get_tokenizer().encode(CONTEXT + CONTINUATION)
    count = len(tokens) - len(llm.get_tokenizer().encode(CONTEXT))
    [output] = llm.generate(
        [{"prompt_token_ids": tokens}], SamplingParams(max_tokens=1, prompt_logprobs=0)
    )
    positions = list(zip(tokens, output.prompt_logprobs or [], strict=True))[-count:]
    expected = sum(entry[token].logprob for token, entry in positions if entry)
    assert math.isclose(value, expected, abs_tol=1e-3)
    assert isinstance(greedy, bool)


def test_generation_stops_where_it_is_told(model: Any) -> None:
    arguments = ("Hello", {"until": ["."], "max_gen_toks": 32, "temperature": 0.0})
    [text] = model.generate_until([Instance("generate_until", {}, arguments, 0)], disable_tqdm=True)
    assert "." not in text
