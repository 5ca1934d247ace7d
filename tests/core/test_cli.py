"""The command line: finding commands, exit codes, and messages that help."""

from __future__ import annotations

from pathlib import Path

import pytest

from windlass import __version__
from windlass.cli import main

COMMAND = """
from windlass.errors import ConfigError, RequestError

HELP = "does as it is told"

def add_arguments(parser):
    parser.add_argument("what", choices=["work", "refuse", "misconfigure", "interrupt"])
    parser.add_argument("--loudness", type=int, default=0)

def run(args):
    if args.what == "refuse":
        raise RequestError("top_p must be above 0, not 0.")
    if args.what == "misconfigure":
        raise ConfigError("port must be from 0 to 65535, not -1")
    if args.what == "interrupt":
        raise KeyboardInterrupt
    print(f"worked at {args.loudness}")
    return 0
"""


@pytest.fixture
def installed_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with two commands, one of which cannot be imported."""
    (tmp_path / "obedient_command.py").write_text(COMMAND)
    (tmp_path / "broken_command.py").write_text("import a_module_that_nobody_has\n")
    metadata = tmp_path / "obedience-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: obedience\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[windlass.commands]\n"
        "obey = obedient_command\n"
        "crash = broken_command\n"
        "doctor = obedient_command\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"windlass {__version__}\n"


def test_without_a_command_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    listing = usage_error(capsys)
    for name in ("chat", "generate", "bench", "doctor"):
        assert f"\n  {name} " in listing


def test_a_group_lists_its_own_commands(capsys: pytest.CaptureFixture[str]) -> None:
    listing = usage_error(capsys, "bench")
    for name in ("latency", "throughput", "serve"):
        assert f"\n  {name} " in listing
    assert "doctor" not in listing


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["docter"], "doctor"),
        (["bench", "throughputs"], "throughput"),
        (["doctor", "--jsn"], "--json"),
        (["doctor", "--back-end=cpu"], "--backend"),
        (["bench", "serve", "--num_prompts", "3"], "--num-prompts"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    arguments: list[str], nearest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"did you mean {nearest}?" in usage_error(capsys, *arguments)


def test_a_name_like_no_other_gets_no_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    message = usage_error(capsys, "doctor", "--zzzzzz")
    assert "unknown option --zzzzzz" in message
    assert "did you mean" not in message


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown option --js" in usage_error(capsys, "doctor", "--js")


def test_a_superfluous_argument_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unexpected argument 'now'" in usage_error(capsys, "doctor", "now")


@pytest.mark.usefixtures("installed_commands")
def test_an_installed_package_adds_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["obey", "work", "--loudness", "3"]) == 0
    assert capsys.readouterr().out == "worked at 3\n"


@pytest.mark.usefixtures("installed_commands")
def test_help_lists_installed_commands_and_survives_a_broken_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    listing = capsys.readouterr().out
    assert "does as it is told" in listing
    assert "'crash' (broken_command) cannot be loaded: ModuleNotFoundError" in listing
    assert listing.count("\n  doctor ") == 1


@pytest.mark.usefixtures("installed_commands")
def test_a_broken_command_is_an_error_of_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crash"]) == 1
    message = capsys.readouterr().err
    assert "a_module_that_nobody_has" in message
    assert message.count("\n") == 1


@pytest.mark.usefixtures("installed_commands")
@pytest.mark.parametrize(("what", "code"), [("refuse", 1), ("misconfigure", 2), ("interrupt", 130)])
def test_exit_codes(what: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["obey", what]) == code
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.usefixtures("installed_commands")
def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["obey", "refuse", "--debug"]) == 1
    message = capsys.readouterr().err
    assert "Traceback" in message
    assert message.endswith("windlass: error: top_p must be above 0, not 0.\n")
