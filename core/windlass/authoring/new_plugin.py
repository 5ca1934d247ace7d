"""Writes the distribution of a new backend plugin: complete, installable, and proved by tests."""

from __future__ import annotations

import importlib.util
import keyword
import re
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from string import Template

from packaging.version import Version

from windlass._version import __version__
from windlass.errors import ConfigError
from windlass.plugin.discovery import AUTO
from windlass.plugin.spec import API_VERSION, BACKENDS_GROUP

MAX_NAME = 32
"""Characters of a backend's name: it stands in tables, file names and log lines."""

_WORD = re.compile(r"[a-z][a-z0-9_]*")
_HOST = "cpu"
_PRIORITY_HOST, _PRIORITY_FILES = (
    50,
    600,
)  # below the processor's in-tree backend, above every other
_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    ".gitignore": "gitignore",
    ".github/workflows/test.yml": "test.yml",
    "$package/__init__.py": "init.py",
    "$package/py.typed": "py.typed",
    "$package/plugin.py": "plugin.py",
    "$package/probe.py": "probe_$kind.py",
    "$package/backend.py": "backend.py",
    "tests/test_conformance.py": "test_conformance.py",
    "tests/test_probe.py": "test_probe_$kind.py",
}
"""Each file of the distribution, and the template that it is made from."""


@dataclass(frozen=True)
class NewPlugin:
    """A plugin to be written; construct it with `new_plugin`, which checks its fields.

    `name` is the backend's, `device_type` torch's name of the device, `device_files` the glob
    pattern of the files that the driver makes for its devices (empty: the processor itself).
    """

    name: str
    device_type: str
    device_files: str

    @property
    def distribution(self) -> str:
        """What is published and installed."""
        return f"windlass-backend-{self.name.replace('_', '-')}"

    @property
    def package(self) -> str:
        """What is imported."""
        return f"windlass_{self.name}"

    @property
    def class_name(self) -> str:
        """The backend's class, without the word Backend."""
        return "".join(part.capitalize() for part in self.name.split("_"))

    @property
    def words(self) -> dict[str, str]:
        """What the templates call `$word`."""
        version, major = Version(__version__), API_VERSION[0]
        return {
            "name": self.name,
            "device_type": self.device_type,
            "device_files": self.device_files,
            "distribution": self.distribution,
            "package": self.package,
            "class_name": self.class_name,
            "kind": "files" if self.device_files else "host",
            "priority": str(_PRIORITY_FILES if self.device_files else _PRIORITY_HOST),
            "group": BACKENDS_GROUP,
            "api_major": str(major),
            "api": str(API_VERSION),
            "windlass": f"windlass>={version.major}.{version.minor},<{version.major + 1}",
        }


def new_plugin(name: str, device_type: str, device_files: str = "") -> NewPlugin:
    """A plugin whose name and device type can be used.

    Without `device_files` the driver's files are taken to be `/dev/TYPE0`, `/dev/TYPE1` and so on.

    Raises:
        ConfigError: a field has a form that cannot work, or the name is taken.
    """
    _check_word("NAME", name)
    _check_word("--device-type", device_type)
    if keyword.iskeyword(name) or name == AUTO:
        raise ConfigError(f"NAME must be free for a backend, and {name!r} has a meaning already")
    if len(name) > MAX_NAME:
        raise ConfigError(f"NAME has {len(name)} characters, at most {MAX_NAME} are allowed")
    for entry in metadata.entry_points(group=BACKENDS_GROUP, name=name):
        origin = entry.dist.name if entry.dist else "an installed distribution"
        raise ConfigError(
            f"NAME must be new, and {origin} brings a backend {name!r}: of two with one name "
            "neither is used"
        )
    if importlib.util.find_spec(f"windlass_{name}") is not None:
        raise ConfigError(f"NAME must be new, and a package windlass_{name} can be imported here")
    if device_type != _HOST:
        device_files = device_files or f"/dev/{device_type}[0-9]*"
    if device_files and not re.fullmatch(r"/[^\s\"\\]+", device_files):
        raise ConfigError(
            f"--device-files must be an absolute path without spaces, quotes and backslashes, "
            f"not {device_files!r}"
        )
    return NewPlugin(name, device_type, device_files)


def _check_word(what: str, word: str) -> None:
    if not _WORD.fullmatch(word):
        raise ConfigError(
            f"{what} must be small letters, digits and underscores, and start with a letter, "
            f"not {word!r}"
        )


def write_plugin(plugin: NewPlugin, directory: Path) -> list[Path]:
    """Write the plugin's distribution into a directory; returns the files.

    Raises:
        ConfigError: the directory has something in it, or cannot be written.
    """
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise ConfigError(f"--directory: {directory} exists and nothing is overwritten")
        return [
            _write(directory / Template(path).substitute(plugin.words), template, plugin.words)
            for path, template in _FILES.items()
        ]
    except OSError as error:
        raise ConfigError(f"--directory: {directory} cannot be written: {error}") from error


def _write(path: Path, template: str, words: dict[str, str]) -> Path:
    source = files(__package__) / "templates" / f"{Template(template).substitute(words)}.template"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(Template(source.read_text(encoding="utf-8")).substitute(words))
    return path
