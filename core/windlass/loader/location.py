"""Where a model's files are: a local folder, or a hub id that is fetched into the cache."""

from __future__ import annotations

import os
import re
from pathlib import Path

from windlass.errors import ModelError

CONFIG_PATTERNS = ("*.json", "*.jinja", "*.txt", "tokenizer*")
WEIGHT_PATTERNS = ("*.safetensors",)
# Second copies of the weights, in the formats of other programs.
IGNORED_PATTERNS = ("consolidated*", "original/*", "onnx/*", "*/*.safetensors")

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def resolve_model(model: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """The folder that holds the model's files; a hub id is downloaded unless it is cached.

    `weights=False` leaves the weight files out. Without a network the cache answers.

    Raises:
        ModelError: there is no such folder, and the hub does not have it either.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ModelError(f"model {model!r} is a file; give the folder that holds config.json")
    if model.startswith(("~", ".", os.sep)) or not _HUB_ID.fullmatch(model):
        raise ModelError(f"model {model!r}: there is no such folder")
    patterns = CONFIG_PATTERNS + (WEIGHT_PATTERNS if weights else ())
    return _download(model, revision, patterns, IGNORED_PATTERNS)


def resolve_files(model: str, revision: str | None, paths: tuple[str, ...]) -> Path:
    """The model's folder, with these files of it that `resolve_model` leaves out.

    Raises:
        ModelError: the hub is not there to ask; a file that it lacks is no error.
    """
    folder = Path(model).expanduser()
    return folder if folder.is_dir() else _download(model, revision, paths, ())


def _download(
    model: str, revision: str | None, patterns: tuple[str, ...], ignored: tuple[str, ...]
) -> Path:
    from huggingface_hub import snapshot_download

    try:
        path = snapshot_download(
            model,
            revision=revision,
            allow_patterns=list(patterns),
            ignore_patterns=list(ignored),
        )
    except Exception as exc:  # the client's errors share no base
        at = f" at revision {revision!r}" if revision else ""
        raise ModelError(
            f"model {model!r}{at} is neither a local folder nor available from the hub or its "
            f"cache: {type(exc).__name__}: {exc}"
        ) from exc
    return Path(path)
