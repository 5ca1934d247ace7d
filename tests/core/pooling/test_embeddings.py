"""Embeddings of tiny models, against transformers and three lines of pooling."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from windlass import LLM, EngineConfig
from windlass.config import ModelConfig, PoolingConfig, SchedulerConfig
from windlass.errors import ConfigError, ContextLengthError, ModelError, RequestError
from windlass.testing.tiny_pooling_models import (
    FAMILIES,
    TEXTS,
    write_sentence_transformer,
    write_tiny_pooling_model,
)
from windlass.text.pooling_processor import MAX_CHARACTERS_PER_TOKEN

MakeModel = Callable[..., tuple[Path, PreTrainedModel]]

MANY = [*TEXTS, "ship", "the anchor " * 20, "a", *(text[:9] for text in TEXTS), "wind " * 11]


def load(folder: Path, **options: Any) -> LLM:
    return LLM(str(folder), backend="cpu", dtype="float32", **options)


def states(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).last_hidden_state[0]


def expected(model: PreTrainedModel, ids: list[int], method: str) -> torch.Tensor:
    found = states(model, ids)
    pooled = {"cls": found[0], "mean": found.mean(0), "last": found[-1]}[method]
    return pooled / pooled.norm()


def vectors(llm: LLM, texts: list[Any], **options: Any) -> torch.Tensor:
    outputs = llm.embed(texts, use_tqdm=False, **options)
    return torch.tensor([output.outputs.embedding for output in outputs])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_says_what_transformers_says_of_each_text_alone(
    make_model: MakeModel, family: str
) -> None:
    folder, model = make_model(family)
    with load(folder, max_num_batched_tokens=200) as llm:
        assert llm.info.pooling is not None
        method = llm.info.pooling.method
        outputs = llm.embed(MANY, use_tqdm=False)
        together = vectors(llm, MANY)
        assert llm.get_metrics().num_steps > 2
    assert method == ("last" if family in ("qwen3", "llama") else "mean")
    reference = [expected(model, output.prompt_token_ids, method) for output in outputs]
    torch.testing.assert_close(together, torch.stack(reference), rtol=0, atol=2e-5)


@pytest.mark.parametrize("method", ["cls", "mean", "last"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_method_can_be_chosen(make_model: MakeModel, family: str, method: Any) -> None:
    folder, model = make_model(family)
    with load(folder, pooling=PoolingConfig(method=method)) as llm:
        for output in llm.embed(list(TEXTS), use_tqdm=False):
            reference = expected(model, output.prompt_token_ids, method)
            found = torch.tensor(output.outputs.embedding)
            torch.testing.assert_close(found, reference, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("written", "method"),
    [
        ({"mode": "pooling_mode_cls_token"}, "cls"),
        ({"mode": "pooling_mode_mean_tokens", "pooling_mode_cls_token": False}, "mean"),
        ({"mode": "pooling_mode_lasttoken"}, "last"),
        ({"mode": "word_embedding_dimension", "pooling_mode": "cls"}, "cls"),
        ({"mode": "word_embedding_dimension", "pooling_mode": ["lasttoken"]}, "last"),
    ],
)
def test_pooling_is_read_as_sentence_transformers_writes_it(
    make_model: MakeModel, written: dict[str, Any], method: str
) -> None:
    folder, _ = make_model("bert")
    write_sentence_transformer(folder, **written, normalize=False, max_seq_length=20)
    with load(folder) as llm:
        assert llm.info.pooling is not None
        assert llm.info.pooling.method == method
        assert llm.info.max_model_len == 20
        # Without the Normalize module the length is what it is, unless one asks.
        assert vectors(llm, ["rope"]).norm().item() != pytest.approx(1, abs=1e-3)
        assert vectors(llm, ["rope"], normalize=True).norm().item() == pytest.approx(1, abs=1e-5)


def test_a_language_model_with_modules_embeds_and_without_them_only_on_demand(
    make_model: MakeModel,
) -> None:
    folder, model = make_model("qwen3", "AutoModelForCausalLM")
    with load(folder, num_blocks=16) as llm:
        assert llm.info.pooling is None
        with pytest.raises(RequestError, match="does not embed") as caught:
            llm.embed("rope")
        assert caught.value.code == "unsupported_endpoint"
    with load(folder, runner="pooling") as llm:
        forced = vectors(llm, list(TEXTS))
    write_sentence_transformer(folder, "pooling_mode_lasttoken")
    with load(folder) as llm:
        torch.testing.assert_close(vectors(llm, list(TEXTS)), forced)
        ids = llm.embed("rope", use_tqdm=False)[0].prompt_token_ids
        with pytest.raises(RequestError, match="does not generate"):
            llm.generate("rope")
    reference = expected(model.base_model, ids, "last")
    with load(folder) as llm:
        torch.testing.assert_close(vectors(llm, ["rope"])[0], reference, rtol=0, atol=2e-5)


def test_dense_layers_stand_between_pooling_and_the_norm(make_model: MakeModel) -> None:
    folder, model = make_model("bert")
    write_sentence_transformer(folder)
    modules = json.loads((folder / "modules.json").read_text())
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (folder / "modules.json").write_text(json.dumps([*modules[:2], dense, modules[2]]))
    (folder / "2_Dense").mkdir()
    shape = {"in_features": 48, "out_features": 8, "bias": True}
    activation = {"activation_function": "torch.nn.modules.activation.Tanh"}
    (folder / "2_Dense/config.json").write_text(json.dumps({**shape, **activation}))
    weight, bias = torch.randn(8, 48), torch.randn(8)
    path = folder / "2_Dense/model.safetensors"
    save_file({"linear.weight": weight, "linear.bias": bias}, path)

    with load(folder) as llm:
        output = llm.embed("the anchor", use_tqdm=False)[0]
        mean = states(model, output.prompt_token_ids).mean(0)
        reference = torch.nn.functional.normalize(torch.tanh(weight @ mean + bias), dim=0)
        found = torch.tensor(output.outputs.embedding)
        torch.testing.assert_close(found, reference, rtol=0, atol=2e-5)

    save_file({"linear.weight": weight[:, :4].contiguous()}, path)
    with pytest.raises(ModelError, match="2_Dense"):
        load(folder)


def test_dimensions_shorten_and_normalise_again(make_model: MakeModel) -> None:
    folder, _ = make_model("bert", matryoshka_dimensions=[8, 24])
    with load(folder) as llm:
        whole = vectors(llm, list(TEXTS))
        short = vectors(llm, list(TEXTS), dimensions=8)
        torch.testing.assert_close(short, torch.nn.functional.normalize(whole[:, :8], dim=1))
        torch.testing.assert_close(vectors(llm, list(TEXTS), dimensions=48), whole)
        for wrong in (7, 49):
            with pytest.raises(RequestError, match="8, 24") as caught:
                llm.embed("rope", dimensions=wrong)
            assert caught.value.param == "dimensions"


def test_dimensions_need_a_model_or_a_flag_that_allows_them(bert: tuple[Path, Any]) -> None:
    with load(bert[0]) as llm:
        assert vectors(llm, ["rope"], dimensions=48).shape == (1, 48)
        with pytest.raises(RequestError, match="cannot be shortened") as caught:
            llm.embed("rope", dimensions=47)
        assert caught.value.code == "unsupported_parameter"
    with load(bert[0], pooling=PoolingConfig(matryoshka=True)) as llm:
        assert vectors(llm, ["rope"], dimensions=47).shape == (1, 47)
        with pytest.raises(RequestError):
            llm.embed("rope", dimensions=0)


def test_prompts_stand_before_a_text_and_may_be_left_out_of_the_mean(
    make_model: MakeModel,
) -> None:
    folder, model = make_model("bert")
    prompts = {"query": "what lifts an ", "document": ""}
    write_sentence_transformer(folder, prompts=prompts)
    with load(folder) as llm:
        asked = vectors(llm, ["anchor"], prompt_name="query")
        torch.testing.assert_close(asked, vectors(llm, ["what lifts an anchor"]))
        with pytest.raises(RequestError, match="document, query") as caught:
            llm.embed("anchor", prompt_name="passage")
        assert caught.value.param == "prompt_name"

    write_sentence_transformer(folder, prompts=prompts, include_prompt=False)
    with load(folder) as llm:
        output = llm.embed("anchor", use_tqdm=False, prompt_name="query")[0]
        prompt = llm.get_tokenizer().encode("what lifts an ")
        rest = states(model, output.prompt_token_ids)[len(prompt) - 1 :]
        reference = torch.nn.functional.normalize(rest.mean(0), dim=0)
        found = torch.tensor(output.outputs.embedding)
        torch.testing.assert_close(found, reference, rtol=0, atol=2e-5)


def test_inputs_up_to_the_limit_and_not_beyond(bert: tuple[Path, Any]) -> None:
    with load(bert[0], max_model_len=16) as llm:
        assert vectors(llm, [[5] * 16]).shape == (1, 48)
        with pytest.raises(ContextLengthError, match="input 1 has 17 tokens"):
            llm.embed([[5], [5] * 17])
        long = "the anchor " * 30
        with pytest.raises(ContextLengthError):
            llm.embed(long)
        cut = llm.embed(long, use_tqdm=False, truncate_prompt_tokens=-1)[0].prompt_token_ids
        whole = llm.get_tokenizer().encode(long)
        assert cut == [*whole[:15], whole[-1]]
        short = llm.embed(long, use_tqdm=False, truncate_prompt_tokens=3)[0].prompt_token_ids
        assert short == [*whole[:2], whole[-1]]
        for wrong in (0, -2, 17):
            with pytest.raises(RequestError) as caught:
                llm.embed(long, truncate_prompt_tokens=wrong)
            assert caught.value.param == "truncate_prompt_tokens"


@pytest.mark.parametrize("inputs", [[], "", ["rope", ""], [[]], [[-1]], [[400]], "\ud800"])
def test_inputs_that_are_none(bert: tuple[Path, Any], inputs: Any) -> None:
    with load(bert[0]) as llm:
        with pytest.raises(RequestError) as caught:
            llm.embed(inputs)
        assert caught.value.param == "input"
        assert vectors(llm, ["rope"]).shape == (1, 48)


def test_a_request_is_bounded_in_inputs_and_in_tokens(bert: tuple[Path, Any]) -> None:
    with load(bert[0], pooling=PoolingConfig(max_inputs=3, max_input_tokens=8)) as llm:
        assert vectors(llm, [[5, 6, 7], [5, 6, 7], [5, 6]]).shape == (3, 48)
        with pytest.raises(RequestError, match="9 tokens together"):
            llm.embed([[5, 6, 7]] * 3)
        with pytest.raises(RequestError, match="from 1 to 3 inputs, not 4"):
            llm.embed([[5]] * 4)


def test_what_would_take_long_to_tokenise_is_refused(bert: tuple[Path, Any]) -> None:
    most = 8 * MAX_CHARACTERS_PER_TOKEN
    with load(bert[0], pooling=PoolingConfig(max_input_tokens=8)) as llm:
        # The tokenizer leaves spaces out: nothing of this text but a word is a token.
        assert vectors(llm, [" " * (most - 1) + "a"]).shape == (1, 48)
        with pytest.raises(RequestError, match=f"{most + 1} characters together"):
            llm.embed(" " * most + "a")
        with pytest.raises(RequestError, match="characters together"):
            llm.score("a" + " " * (most // 2), ["b", "c"])


def test_a_model_that_is_not_as_it_should_be_is_refused(make_model: MakeModel) -> None:
    folder, _ = make_model("bert")
    with pytest.raises(ConfigError, match="at most 128"):
        load(folder, max_model_len=129)
    with pytest.raises(ConfigError, match="quantization"):
        load(folder, quantization="int8")
    write_sentence_transformer(folder, "pooling_mode_max_tokens")
    with pytest.raises(ModelError, match="pooling_mode_max_tokens"):
        load(folder)
    (folder / "modules.json").write_text('[{"type": "x.models.LSTM", "path": "1_LSTM"}]')
    with pytest.raises(ModelError, match="'LSTM' is not supported"):
        load(folder)
    (folder / "modules.json").write_text('[{"type": "x.Pooling", "path": "../1_Pooling"}]')
    with pytest.raises(ModelError, match="inside the model"):
        load(folder)


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    model = write_tiny_pooling_model("bert", tmp_path)
    kept = {n: t for n, t in model.state_dict().items() if "layer.1.output.dense" not in n}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"encoder\.layer\.1\.output\.dense\.bias"):
        load(tmp_path)


def test_random_weights_need_no_checkpoint(bert: tuple[Path, Any]) -> None:
    with load(bert[0], load_format="dummy", seed=3) as first:
        once = vectors(first, list(TEXTS))
    with load(bert[0], load_format="dummy", seed=3) as again:
        torch.testing.assert_close(vectors(again, list(TEXTS)), once)


def test_numbers_in_half_precision_are_near(bert: tuple[Path, Any]) -> None:
    with load(bert[0]) as llm:
        exact = vectors(llm, list(TEXTS))
    with LLM(str(bert[0]), backend="cpu", dtype="bfloat16") as llm:
        assert llm.info.dtype == "bfloat16"
        cosines = (vectors(llm, list(TEXTS)) * exact).sum(1)
    assert cosines.min().item() > 0.99
    assert not math.isnan(cosines.sum().item())


def test_a_whole_configuration_serves_too(bert: tuple[Path, Any]) -> None:
    config = EngineConfig(
        model=ModelConfig(model=str(bert[0]), dtype="float32"),
        scheduler=SchedulerConfig(max_num_seqs=1),
    )
    with LLM.from_config(config) as llm:
        assert vectors(llm, MANY).shape == (len(MANY), 48)
        assert llm.get_metrics().num_steps == len(MANY)
