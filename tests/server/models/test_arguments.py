"""`--models FILE`: several models, each with the flags of its own."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from windlass.arguments import engine_config
from windlass.errors import ConfigError
from windlass_server.command import add_arguments, server_settings
from windlass_server.models.arguments import each_model

TWO = """
[[models]]
model = "org/small"
served_model_name = ["small", "tiny"]
max_model_len = "4k"

[[models]]
model = "org/large"
dtype = "bfloat16"
tool_call_parser = "hermes"
scheduling_policy = "priority"
enable_prefix_caching = false
enforce_eager = true
op = ["silu_and_mul=reference", "rms_norm=reference"]
"""


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    return parser.parse_args(words)


def models_of(folder: Path, text: str, *words: str) -> list[argparse.Namespace]:
    (folder / "models.toml").write_text(text)
    return each_model(parse("--models", str(folder / "models.toml"), *words))


def test_each_entry_has_its_flags_on_top_of_those_of_the_command_line(tmp_path: Path) -> None:
    words = ("--max-num-seqs", "7", "--dtype", "float32", "--max-loaded-models", "2")
    entries = models_of(tmp_path, TWO, *words)
    small, large = (engine_config(entry) for entry in entries)
    assert (small.model.model, large.model.model) == ("org/small", "org/large")
    assert (small.model.max_model_len, large.model.max_model_len) == (4000, None)
    assert (small.model.dtype, large.model.dtype) == ("float32", "bfloat16")
    assert small.scheduler.max_num_seqs == large.scheduler.max_num_seqs == 7
    assert (small.cache.enable_prefix_caching, large.cache.enable_prefix_caching) == (True, False)
    assert (small.backend.enforce_eager, large.backend.enforce_eager) == (False, True)
    assert set(large.backend.ops) == {"silu_and_mul", "rms_norm"}
    assert not small.backend.ops

    settings = server_settings(parse(*words), entries)
    assert settings.swap.max_loaded == 2
    first, second = settings.models
    assert (first.names, second.names) == (("small", "tiny"), ("org/large",))
    assert (first.preload, second.preload) == (True, False)
    assert (first.tool_call_parser, second.tool_call_parser) == (None, "hermes")
    assert (first.priority_scheduling, second.priority_scheduling) == (False, True)


def test_entries_do_not_share_what_is_given_several_times(tmp_path: Path) -> None:
    text = '[[models]]\nmodel = "a"\nop = ["x=reference"]\n[[models]]\nmodel = "b"\n'
    first, second = models_of(tmp_path, text, "--op", "y=reference")
    assert set(engine_config(first).backend.ops) == {"x", "y"}
    assert set(engine_config(second).backend.ops) == {"y"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must list one model at least"),
        ("models = 3", "must list one model at least"),
        ("[[models]", "is not TOML"),
        ("[server]\nport = 1\n[[models]]\nmodel = 'a'", "knows only .*not 'server'"),
        ("[[models]]\nnames = ['a']", "model 1: 'model' must be a folder"),
        ("[[models]]\nmodel = 'a'\nmax_model_lem = 1", "no setting 'max_model_lem'; did you mean"),
        ("[[models]]\nmodel = 'a'\nport = 1", "no setting 'port'"),
        ("[[models]]\nmodel = 'a'\ndtype = 'int3'", "model 1: argument --dtype: invalid choice"),
        ("[[models]]\nmodel = 'a'\nenforce_eager = 'yes'", "'enforce_eager' must be true or false"),
        ("[[models]]\nmodel = 'a'\nmax_num_seqs = true", "'max_num_seqs' must not be true"),
        ("[[models]]\nmodel = 'a'\npreload = 1", "'preload' must be true or false"),
        ("[[models]]\nmodel = 'a'\n[[models]]\nmodel = 3", "model 2: 'model' must be"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        models_of(tmp_path, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the models file"):
        each_model(parse("--models", str(tmp_path / "none.toml")))


def test_one_model_or_a_file_of_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes the place of MODEL"):
        models_of(tmp_path, TWO, "org/third")


def test_no_more_models_are_loaded_at_the_start_than_may_be_loaded(tmp_path: Path) -> None:
    text = '[[models]]\nmodel = "a"\n[[models]]\nmodel = "b"\npreload = true\n'
    entries = models_of(tmp_path, text)
    with pytest.raises(ConfigError, match="2 models are to be loaded at the start"):
        server_settings(parse(), entries)
    both = server_settings(parse("--max-loaded-models", "2"), entries)
    assert [model.preload for model in both.models] == [True, True]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--max-loaded-models", "0"), "max_loaded must be at least 1"),
        (("--sleep-after", "0"), "sleep_after must be above 0"),
        (("--max-waiting-for-models", "0"), "max_waiting must be at least 1"),
    ],
)
def test_limits_of_the_swap(words: tuple[str, ...], says: str) -> None:
    args = parse(*words)
    with pytest.raises(ConfigError, match=says):
        server_settings(args, each_model(args))
