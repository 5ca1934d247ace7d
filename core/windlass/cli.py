"""The `windlass` command: finds the command asked for, imports only that one, and runs it.

A command is a module with `HELP: str`, `add_arguments(parser)` and `run(args) -> int`; a module
with `HELP` and `COMMANDS` (name -> module) is a group of commands. Other packages add commands in
the entry-point group `windlass.commands`. A command's module is imported to show its help line,
so what is heavy is imported in `run`.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from types import ModuleType
from typing import NoReturn

from windlass._version import __version__
from windlass.errors import ConfigError, WindlassError

COMMANDS_GROUP = "windlass.commands"
CORE_COMMANDS = {
    "chat": "windlass.commands.chat",
    "generate": "windlass.commands.generate",
    "bench": "windlass.commands.bench",
    "doctor": "windlass.commands.doctor",
    "conformance": "windlass.commands.conformance",
    "plugin": "windlass.commands.plugin",
}
DESCRIPTION = "Windlass serves large language models on any hardware."

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns the exit code.

    0: done. 1: Windlass refused or failed, with the reason on stderr. 2: a wrong setting or usage
    (argparse raises SystemExit for the latter, as for `--help`). 130: interrupted.
    """
    arguments = sys.argv[1:] if argv is None else argv
    try:
        options = parse(arguments)
        code: int = options.run(options)
        sys.stdout.flush()
    except WindlassError as error:
        if "--debug" in arguments:
            _print_traceback()
        print(f"windlass: error: {error}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_ERROR
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`windlass doctor | head`): the interpreter must not flush again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    return code


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse a command line; `run` of the result is the command's function.

    Raises:
        SystemExit: help was printed, or the usage is wrong.
        WindlassError: the command's module cannot be imported.
    """
    return _parse_group("windlass", DESCRIPTION, CORE_COMMANDS, arguments, extensible=True)


class CommandParser(argparse.ArgumentParser):
    """An argument parser that names the nearest option when it meets an unknown one."""

    def parse_args(  # type: ignore[override]
        self, args: list[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse everything, or end with usage and the reason."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(self._describe_unknown(unknown))
        return options

    def error(self, message: str) -> NoReturn:
        """End with exit code 2: the reason, and where to read more."""
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}\nSee: {self.prog} --help\n")

    def _describe_unknown(self, unknown: list[str]) -> str:
        first = next((word for word in unknown if word.startswith("-")), None)
        if first is None:
            return f"unexpected argument {unknown[0]!r}"
        name = first.partition("=")[0]
        return f"unknown option {name}" + _suggestion(name, self._option_string_actions)


class _GroupParser(CommandParser):
    """What stands before a command. Only help lists the commands, which reads other packages'."""

    def __init__(self, prog: str, description: str, command_list: Callable[[], str]) -> None:
        super().__init__(
            prog=prog,
            description=description,
            usage=f"{prog} [options] COMMAND ...",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._command_list = command_list

    def format_help(self) -> str:
        """The options, then the commands."""
        self.epilog = self._command_list()
        return super().format_help()


def _parse_group(
    prog: str,
    description: str,
    commands: Mapping[str, str],
    arguments: list[str],
    *,
    extensible: bool = False,
) -> argparse.Namespace:
    """Parse what stands before the command, then hand over to the command's own parser."""
    position = next(
        (i for i, word in enumerate(arguments) if not word.startswith("-")), len(arguments)
    )
    before, rest = arguments[:position], arguments[position:]
    parser = _GroupParser(prog, description, lambda: _command_list(prog, commands, extensible))
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if extensible:
        version = f"windlass {__version__}"
        parser.add_argument("--version", action="version", version=version)
    if not rest:
        parser.parse_args(before)
        parser.print_help(sys.stderr)
        parser.exit(EXIT_USAGE)
    parser.parse_args(before)
    name, *rest = rest
    module = _load(name, commands, extensible)
    if module is None:
        known = [*commands, *(_entry_points() if extensible else ())]
        parser.error(f"unknown command {name!r}" + _suggestion(name, known))
    return _parse_command(f"{prog} {name}", module, rest)


def _parse_command(prog: str, module: ModuleType, arguments: list[str]) -> argparse.Namespace:
    if hasattr(module, "COMMANDS"):
        return _parse_group(prog, module.HELP, module.COMMANDS, arguments)
    parser = CommandParser(prog=prog, description=module.HELP, allow_abbrev=False)
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=module.run)
    return parser.parse_args(arguments)


def _load(name: str, commands: Mapping[str, str], extensible: bool) -> ModuleType | None:
    """Import a command's module; None when there is no such command.

    Raises:
        WindlassError: another package's command cannot be imported.
    """
    if name in commands:
        return import_module(commands[name])
    target = _entry_points().get(name) if extensible else None
    if target is None:
        return None
    try:
        return import_module(target)
    except Exception as error:
        what = f"the command {name!r} ({target}) cannot be loaded"
        raise WindlassError(f"{what}: {type(error).__name__}: {error}") from error


def _entry_points() -> dict[str, str]:
    """Commands of installed packages: name -> module; the first of equal names is taken."""
    from importlib.metadata import entry_points

    found: dict[str, str] = {}
    for point in entry_points(group=COMMANDS_GROUP):
        found.setdefault(point.name, point.value)
    return found


def _command_list(prog: str, commands: Mapping[str, str], extensible: bool) -> str:
    others = _entry_points() if extensible else {}
    names = [*(name for name in others if name not in commands), *commands]
    rows = "".join(f"  {name:<12}{_help_line(name, commands, extensible)}\n" for name in names)
    return f"commands:\n{rows}\n{prog} COMMAND --help tells the options of a command."


def _help_line(name: str, commands: Mapping[str, str], extensible: bool) -> str:
    try:
        module = _load(name, commands, extensible)
    except WindlassError as error:
        return str(error)
    return str(getattr(module, "HELP", ""))


def _suggestion(word: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


if __name__ == "__main__":
    sys.exit(main())
