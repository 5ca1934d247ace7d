"""The flags of keys, limits and deadlines."""

from __future__ import annotations

import argparse

import pytest

from windlass.arguments import add_engine_arguments
from windlass.errors import ConfigError
from windlass_server.access.settings import (
    NO_LIMITS,
    AccessSettings,
    KeyLimits,
    add_arguments,
    from_arguments,
)


def settings(*words: str) -> AccessSettings:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    add_engine_arguments(parser)
    return from_arguments(parser.parse_args(words))


def test_flags_become_settings() -> None:
    found = settings(
        *("--api-key", "a", "--api-key", "b", "--admin-api-key", "root"),
        *("--api-key-file", "keys.toml", "--key-requests-per-minute", "1"),
        *("--key-tokens-per-minute", "2", "--key-max-concurrent-requests", "3"),
        *("--queue-timeout", "4.5", "--request-timeout", "60", "--separate-prefix-caches"),
        *("--max-num-queued-reqs", "5", "--max-num-queued-tokens", "6"),
    )
    assert found == AccessSettings(
        api_keys=("a", "b"),
        admin_api_keys=("root",),
        api_key_file="keys.toml",
        limits=KeyLimits(requests_per_minute=1, tokens_per_minute=2, max_concurrent_requests=3),
        queue_timeout=4.5,
        request_timeout=60.0,
        separate_prefix_caches=True,
        max_queued_requests=5,
        max_queued_tokens=6,
    )


def test_without_flags_there_are_no_keys_and_no_limits() -> None:
    found = settings()
    assert found == AccessSettings()
    assert not found.has_keys
    assert found.limits == NO_LIMITS


@pytest.mark.parametrize("flag", ["--api-key", "--admin-api-key", "--api-key-file"])
def test_any_kind_of_key_closes_the_server(flag: str) -> None:
    assert settings(flag, "x").has_keys


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--api-key", ""), "api_key must not be empty"),
        (("--key-requests-per-minute", "-1"), "requests_per_minute of a key must be at least 0"),
        (("--key-max-concurrent-requests", "-1"), "max_concurrent_requests of a key"),
        (("--queue-timeout", "0"), "queue_timeout must be a number of seconds above 0"),
        (("--request-timeout", "nan"), "request_timeout must be a number of seconds above 0"),
        (("--request-timeout", "inf"), "request_timeout must be a number of seconds above 0"),
    ],
)
def test_a_wrong_flag_says_what_is_wrong(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        settings(*words)


def test_keys_do_not_show_in_the_text_of_settings() -> None:
    assert "secret" not in repr(settings("--api-key", "secret", "--admin-api-key", "secret2"))
