"""Reading config.json and generation_config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from windlass.errors import ModelError
from windlass.loader.stated_config import stated_config
from windlass.models.registry import HFConfig, check_architecture


def read_hf_config(folder: Path) -> tuple[str, HFConfig]:
    """The architecture's name and its configuration, in transformers' names.

    Raises:
        ModelError: config.json is missing or wrong, or asks for code of its own.
    """
    path = folder / "config.json"
    raw = read_json(path)
    architecture = _architecture(path, raw)

    stated = stated_config(raw)
    if stated is not None:
        return architecture, stated
    return architecture, auto_config(folder, raw)


def auto_config(folder: Path, raw: dict[str, Any]) -> HFConfig:
    """The configuration as transformers reads it; `raw` is the content of config.json.

    Raises:
        ModelError: it is wrong, or asks for code of its own.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, TypeError, OSError, StrictDataclassError) as exc:
        raise ModelError(
            f"{folder / 'config.json'} is not valid: {exc}{_remote_code(raw)}"
        ) from exc


def eos_token_ids(folder: Path, hf_config: HFConfig) -> tuple[int, ...]:
    """Tokens that end a sequence: those of generation_config.json where it names any.

    Raises:
        ModelError: they are not token ids.
    """
    path = folder / "generation_config.json"
    stated = read_json(path).get("eos_token_id") if path.is_file() else None
    if stated is None:
        path, stated = folder / "config.json", hf_config.eos_token_id
    if stated is None:
        return ()
    ids = stated if isinstance(stated, list) else [stated]
    if not all(isinstance(token, int) and token >= 0 for token in ids):
        raise ModelError(f"{path}: eos_token_id must hold token ids, not {stated!r}")
    return tuple(dict.fromkeys(ids))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        ModelError: the file cannot be read or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as exc:
        raise ModelError(f"{path} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise ModelError(f"{path} is not valid JSON: {exc}") from exc
    if not isinstance(content, dict):
        raise ModelError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def _architecture(path: Path, raw: dict[str, Any]) -> str:
    names = raw.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise ModelError(f"{path}: config field architectures must name one, not {names!r}")
    try:
        check_architecture(names[0])
    except ModelError as exc:
        raise ModelError(f"{path}: {exc}{_remote_code(raw)}") from exc
    return names[0]


def _remote_code(raw: dict[str, Any]) -> str:
    if "auto_map" not in raw:
        return ""
    return " (the checkpoint brings its own code, auto_map; running it is not supported)"
