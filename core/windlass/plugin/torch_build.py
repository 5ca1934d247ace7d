"""What kind of torch is installed, read from its version.py without importing it."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class TorchBuild:
    """The constants of torch/version.py.

    `runtimes` maps each vendor runtime that this build was made for to its version, in torch's
    own names; empty for a build without any accelerator.
    """

    version: str
    runtimes: Mapping[str, str] = field(default_factory=dict)

    def runtime(self, name: str) -> str | None:
        """The version of the runtime `name` that this build was made for, None without it."""
        return self.runtimes.get(name)


def installed_torch(version_file: Path | None = None) -> TorchBuild | None:
    """Read the installed torch (or the given version.py); None when there is no torch."""
    path = version_file or _installed_version_file()
    if path is None:
        return None
    try:
        constants = _string_constants(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return None
    version = constants.pop("__version__", "")
    constants.pop("git_version", None)
    return TorchBuild(version=version, runtimes=constants)


def _installed_version_file() -> Path | None:
    try:
        spec = importlib.util.find_spec("torch")
    except ValueError:
        return None
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).with_name("version.py")


def _string_constants(source: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for statement in ast.parse(source).body:
        match statement:
            case (
                ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=str(text)))
                | ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text)))
            ):
                found[name] = text
    return found
