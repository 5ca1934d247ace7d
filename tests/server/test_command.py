"""`windlass serve`: flags to settings."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from windlass import demo_model
from windlass.arguments import engine_config
from windlass.errors import ConfigError
from windlass_server.command import add_arguments, server_settings
from windlass_server.models.arguments import each_model
from windlass_server.models.settings import ModelSettings
from windlass_server.settings import ServerSettings


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    return parser.parse_args(words)


def settings_of(args: argparse.Namespace) -> ServerSettings:
    return server_settings(args, each_model(args))


def test_without_a_model_the_demo_model_is_served_under_its_own_name() -> None:
    args = parse()
    assert engine_config(args).model.model == str(demo_model.path())
    assert settings_of(args).models[0].names == (demo_model.NAME,)


def test_a_model_is_served_under_its_own_name_or_the_names_given() -> None:
    assert settings_of(parse("org/model")).models[0].names == ("org/model",)
    named = parse("org/model", "--served-model-name", "a", "b")
    assert settings_of(named).models[0].names == ("a", "b")


def test_server_flags_become_settings(tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages }}")
    args = parse(
        *("m", "--host", "0.0.0.0", "--port", "0", "--api-key", "a", "--api-key", "b"),
        *("--chat-template", str(template), "--strict-params", "--public-metrics"),
        *("--shutdown-timeout", "5", "--max-body-bytes", "100", "--access-log"),
        *("--disable-log-stats", "--log-format", "json", "--root-path", "/llm"),
        *(
            "--no-ui",
            "--scheduling-policy",
            "priority",
            "--allowed-origins",
            "https://a",
            "https://b",
        ),
    )
    settings = settings_of(args)
    assert (settings.host, settings.port) == ("0.0.0.0", 0)
    assert settings.access.api_keys == ("a", "b")
    assert settings.models[0].chat_template == "{{ messages }}"
    assert settings.strict_params
    assert settings.public_metrics
    assert settings.shutdown_timeout == 5
    assert settings.max_body_bytes == 100
    assert settings.access_log
    assert not settings.ui
    assert not settings.log_stats
    assert settings.log_format == "json"
    assert settings.root_path == "/llm"
    assert settings.models[0].priority_scheduling
    assert settings.allowed_origins == ("https://a", "https://b")


def test_flags_of_the_chat_surfaces_become_settings() -> None:
    args = parse(
        *("--trust-request-chat-template", "--template-timeout", "2.5"),
        *("--tool-call-parser", "hermes", "--reasoning-parser", "think"),
        *("--max-messages", "1", "--max-tools", "2", "--max-tool-bytes", "3"),
        *("--max-stored-responses", "4", "--max-stored-response-bytes", "5"),
        *("--max-background-responses", "6", "--response-ttl", "7"),
    )
    settings = settings_of(args)
    assert settings.trust_request_chat_template
    assert settings.template_timeout == 2.5
    assert (settings.models[0].tool_call_parser, settings.models[0].reasoning_parser) == (
        "hermes",
        "think",
    )
    assert (settings.max_messages, settings.max_tools, settings.max_tool_bytes) == (1, 2, 3)
    assert settings.max_stored_responses == 4
    assert settings.max_stored_response_bytes == 5
    assert settings.max_background_responses == 6
    assert settings.response_ttl == 7
    plain, defaults = settings_of(parse()), ServerSettings(models=(ModelSettings(names=("x",)),))
    for name in ("max_messages", "max_tools", "max_tool_bytes", "template_timeout"):
        assert getattr(plain, name) == getattr(defaults, name)
    for name in ("max_stored_responses", "max_stored_response_bytes", "response_ttl"):
        assert getattr(plain, name) == getattr(defaults, name)
    assert not plain.trust_request_chat_template


def test_origins_may_come_as_json() -> None:
    args = parse("--allowed-origins", '["https://a", "*"]')
    assert settings_of(args).allowed_origins == ("https://a", "*")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--chat-template", "/no/such/file"), "cannot read the chat template"),
        (("--allowed-origins", "[1]"), "must be strings"),
        (("--allowed-origins", "[x"), "not valid JSON"),
        (("--port", "70000"), "port must be"),
        (("--max-body-bytes", "0"), "max_body_bytes must be"),
        (("--max-tools", "0"), "max_tools must be"),
        (("--max-stored-responses", "-1"), "max_stored_responses must be"),
        (("--shutdown-timeout", "-1"), "shutdown_timeout must be"),
        (("--api-key", ""), "api_key must not be empty"),
        (("--root-path", "x"), "root_path must start"),
    ],
)
def test_a_wrong_flag_says_what_is_wrong(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        settings_of(parse(*words))


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import argparse, sys\n"
        "from windlass_server.command import add_arguments\n"
        "parser = argparse.ArgumentParser()\n"
        "add_arguments(parser)\n"
        "parser.format_help()\n"
        "heavy = {'torch', 'transformers', 'fastapi', 'uvicorn', 'pydantic', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    environment: dict[str, Any] = {"PYTHONPATH": ":".join(sys.path)}
    output = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert output.stdout == "[]\n"
