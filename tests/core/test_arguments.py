"""The engine's flags become `EngineConfig`; what is not given keeps its default."""

from __future__ import annotations

import argparse

import pytest

from windlass import demo_model
from windlass.arguments import add_engine_arguments, engine_config, token_count
from windlass.config import EngineConfig, ModelConfig
from windlass.errors import ConfigError


def parse(*words: str) -> EngineConfig:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_engine_arguments(parser)
    return engine_config(parser.parse_args(words))


def test_no_flag_gives_the_defaults_and_the_demo_model() -> None:
    assert parse() == EngineConfig(model=ModelConfig(model=str(demo_model.path())))


def test_every_flag_reaches_its_setting() -> None:
    config = parse(
        *("org/model", "--tokenizer", "org/tokenizer", "--revision", "main"),
        *("--dtype", "float16", "--load-format", "dummy", "--max-model-len", "32k"),
        *("--seed", "7", "--quantization", "int4", "--backend", "cpu", "--device-index", "1"),
        *("--op", "sample=fast,reference", "--op", "rope=reference"),
        *("--disable-plugin", "a", "--disable-plugin", "b", "--allow-cpu-fallback"),
        "--enforce-eager",
        *("--memory-utilization", "0.5", "--block-size", "32", "--num-blocks", "100"),
        *("--kv-cache-dtype", "int8"),
        *("--no-enable-prefix-caching", "--max-num-seqs", "8"),
        *("--max-num-batched-tokens", "4K", "--scheduling-policy", "priority"),
        *("--max-num-queued-reqs", "5", "--max-num-queued-tokens", "1m"),
        *("--step-timeout", "9"),
    )
    model, cache, scheduler = config.model, config.cache, config.scheduler
    assert (model.model, model.tokenizer, model.revision) == ("org/model", "org/tokenizer", "main")
    assert (model.dtype, model.load_format, model.seed) == ("float16", "dummy", 7)
    assert model.max_model_len == 32_000
    assert model.quantization == "int4"
    assert (config.backend.backend, config.backend.device_index) == ("cpu", 1)
    assert config.backend.ops == {"sample": ["fast", "reference"], "rope": ["reference"]}
    assert config.backend.disabled_plugins == ("a", "b")
    assert config.backend.allow_cpu_fallback
    assert config.backend.enforce_eager
    assert (cache.memory_utilization, cache.block_size, cache.num_blocks) == (0.5, 32, 100)
    assert not cache.enable_prefix_caching
    assert cache.dtype == "int8"
    assert (scheduler.max_num_seqs, scheduler.max_num_batched_tokens) == (8, 4096)
    assert scheduler.policy == "priority"
    assert (scheduler.max_queued_requests, scheduler.max_queued_tokens) == (5, 1_000_000)
    assert config.step_timeout == 9


def test_an_unknown_quantization_is_a_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--quantization", "awq")
    assert "choose from" in capsys.readouterr().err


def test_names_that_users_of_vllm_know_work() -> None:
    config = parse("--gpu-memory-utilization", "0.9", "--num-gpu-blocks-override", "64")
    assert config.cache.memory_utilization == 0.9
    assert config.cache.num_blocks == 64
    assert parse("--max-model-len", "auto").model.max_model_len is None
    assert parse("--kv-cache-dtype", "fp8_e4m3").cache.dtype == "fp8_e4m3"


@pytest.mark.parametrize(
    ("text", "count"), [("4096", 4096), ("32k", 32_000), ("32K", 32_768), ("1.5M", 1_572_864)]
)
def test_token_counts_may_be_short(text: str, count: int) -> None:
    assert token_count(text) == count


@pytest.mark.parametrize("text", ["", "x", "-1", "4 k", "4g"])
def test_other_token_counts_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a number"):
        token_count(text)


def test_a_value_out_of_range_names_the_setting() -> None:
    with pytest.raises(ConfigError, match="block_size must be"):
        parse("--block-size", "0")
