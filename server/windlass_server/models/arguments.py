"""The flags of a server's models, and the file that names several."""

from __future__ import annotations

import argparse
import difflib
import tomllib
from pathlib import Path
from typing import Any, NoReturn

from windlass import demo_model
from windlass.arguments import add_engine_arguments
from windlass.errors import ConfigError
from windlass_server.models.settings import ModelSettings, SwapSettings

_OF_THE_FILE = ("preload",)
"""Keys of a model in the file that are no flags."""


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what a model is called and how it is talked to."""
    group = parser.add_argument_group("conversation")
    group.add_argument(
        "--served-model-name",
        nargs="+",
        metavar="NAME",
        help="names of the model in the API (default: MODEL)",
    )
    group.add_argument(
        "--chat-template", metavar="FILE", help="chat template instead of the model's own"
    )
    group.add_argument(
        "--tool-call-parser", metavar="NAME", help="format of tool calls, instead of detecting it"
    )
    group.add_argument(
        "--reasoning-parser", metavar="NAME", help="format of reasoning, instead of detecting it"
    )


def add_swap_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags for several models and for sleep."""
    group = parser.add_argument_group("several models")
    default = SwapSettings()
    group.add_argument(
        "--models", metavar="FILE", help="TOML file that lists models to serve, instead of MODEL"
    )
    group.add_argument(
        "--max-loaded-models",
        type=int,
        default=default.max_loaded,
        metavar="N",
        help="models in memory at a time",
    )
    group.add_argument(
        "--sleep-after",
        type=float,
        metavar="SECONDS",
        help="give a model's memory back when nobody used it for so long",
    )
    group.add_argument(
        "--max-waiting-for-models",
        type=int,
        default=default.max_waiting,
        metavar="N",
        help="requests that may wait for models to load",
    )


def swap_settings(args: argparse.Namespace) -> SwapSettings:
    """Return the settings of parsed flags; raises ConfigError when a value is wrong."""
    return SwapSettings(
        max_loaded=args.max_loaded_models,
        sleep_after=args.sleep_after,
        max_waiting=args.max_waiting_for_models,
    )


def model_settings(args: argparse.Namespace) -> ModelSettings:
    """Return what the server knows of the model with these flags.

    Raises:
        ConfigError: a value is wrong, or the chat template cannot be read.
    """
    return ModelSettings(
        names=tuple(args.served_model_name or [args.model or demo_model.NAME]),
        chat_template=_read_template(args.chat_template),
        tool_call_parser=args.tool_call_parser,
        reasoning_parser=args.reasoning_parser,
        priority_scheduling=args.scheduling_policy == "priority",
        preload=getattr(args, "preload", True),
    )


def _read_template(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"cannot read the chat template {path}: {reason}") from exc


def each_model(args: argparse.Namespace) -> list[argparse.Namespace]:
    """Return the flags of every model: those of the command line, changed by its file entry.

    Raises:
        ConfigError: the file cannot be read, or an entry is wrong; the message names it.
    """
    if args.models is None:
        return [args]
    if args.model is not None or args.served_model_name is not None:
        raise ConfigError("--models takes the place of MODEL and --served-model-name: name one")
    return [_flags(args, number, entry) for number, entry in enumerate(_entries(args.models), 1)]


def _entries(path: str) -> list[dict[str, Any]]:
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"cannot read the models file {path}: {exc.strerror}") from exc
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ConfigError(f"the models file {path} is not TOML: {exc}") from exc
    entries = content.pop("models", None)
    if content:
        raise ConfigError(f"the models file knows only [[models]], not {sorted(content)[0]!r}")
    if not isinstance(entries, list) or not entries:
        raise ConfigError("the models file must list one model at least, as [[models]]")
    return entries


class _EntryParser(argparse.ArgumentParser):
    """Reads an entry as flags; what is wrong becomes a ConfigError that names the entry."""

    def __init__(self, place: str) -> None:
        super().__init__(prog=place, allow_abbrev=False, add_help=False)
        self._place = place
        add_model_arguments(self)
        add_engine_arguments(self)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self._place}: {message}")

    def words(self, key: str, value: object) -> list[str]:
        """Return the command line words for one key of the entry."""
        flag = "--" + key.replace("_", "-")
        action = self._option_string_actions.get(flag)
        if action is None or ("_" not in key and "-" in key):
            known = [name[2:].replace("-", "_") for name in self._option_string_actions]
            near = difflib.get_close_matches(key, ["model", "preload", *known], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{self._place}: there is no setting {key!r}{hint}")
        if isinstance(value, bool):
            if action.nargs != 0:
                self.error(f"{key!r} must not be true or false")
            off = "--no-" + flag[2:]
            return [flag] if value else [off] if off in action.option_strings else []
        if action.nargs == 0:
            self.error(f"{key!r} must be true or false")
        values = [str(part) for part in (value if isinstance(value, list) else [value])]
        if action.nargs == "+":
            return [flag, *values]
        return [word for part in values for word in (flag, part)]


def _flags(args: argparse.Namespace, number: int, entry: object) -> argparse.Namespace:
    place = f"models file, model {number}"
    if not isinstance(entry, dict) or not isinstance(entry.get("model"), str):
        raise ConfigError(f"{place}: 'model' must be a folder or a Hugging Face id")
    parser = _EntryParser(place)
    words = [
        word
        for key, value in entry.items()
        if key not in ("model", *_OF_THE_FILE)
        for word in parser.words(key, value)
    ]
    preload = entry.get("preload", number == 1)
    if not isinstance(preload, bool):
        raise ConfigError(f"{place}: 'preload' must be true or false")
    # What the entry does not set keeps the value of the command line.
    flags = argparse.Namespace(**vars(args))
    for action in parser._actions:
        if action.dest != "model" and isinstance(getattr(flags, action.dest, None), list):
            setattr(flags, action.dest, list(getattr(flags, action.dest)))
    parser.parse_args([*words, "--", entry["model"]], flags)
    flags.preload = preload
    return flags
