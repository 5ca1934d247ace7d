"""What a checkpoint says about embeddings and scores, as sentence-transformers writes it down.

`modules.json` lists the steps (Transformer, Pooling, Dense, Normalize), each with a folder of its
own; `config_sentence_transformers.json` holds prompts, `sentence_bert_config.json` the longest
input. Checkpoints without these files are read by their architecture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from windlass.config import PoolingConfig, PoolingMethod, PoolingTask
from windlass.errors import ModelError
from windlass.loader.hf_config import read_json
from windlass.models.registry import ARCHITECTURES

_CLASSIFIER = "ForSequenceClassification"
_POOLED_ARCHITECTURES = ("Model", "ForMaskedLM", _CLASSIFIER)
_MODES: dict[str, PoolingMethod] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
_NO_LIMIT = 10_000_000
_SHORT_MODES: dict[str, PoolingMethod] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid")
"""Activations of a Dense step that are known, by the names of torch's classes."""


@dataclass(frozen=True, kw_only=True)
class DenseStep:
    """A linear layer behind the pooling; its weights are in `folder`."""

    folder: Path
    in_features: int
    out_features: int
    bias: bool
    activation: str


@dataclass(frozen=True, kw_only=True)
class PoolingDescription:
    """How a checkpoint's states become an embedding or a score.

    `method` is None where the files do not say, `max_tokens` likewise. `activation` makes a score
    of a classifier's number. `answers` are the texts of the tokens for "no" and "yes" of a language
    model that scores.
    """

    architecture: str
    raw: dict[str, Any]
    task: PoolingTask
    method: PoolingMethod | None
    normalize: bool
    dense: tuple[DenseStep, ...]
    max_tokens: int | None
    prompts: dict[str, str]
    default_prompt: str | None
    include_prompt: bool
    matryoshka: bool
    matryoshka_dimensions: tuple[int, ...]
    activation: str
    answers: tuple[str, str] | None


def is_pooling_model(folder: Path, config: PoolingConfig) -> bool:
    """Whether the model in `folder` embeds or scores, by the settings or else by its files.

    A model that can generate does so unless sentence-transformers' `modules.json` stands beside it.
    """
    if config.runner != "auto":
        return config.runner == "pooling"
    if not (folder / "config.json").is_file():
        return False
    raw = read_json(folder / "config.json")
    name = _architecture(raw)
    if name in ARCHITECTURES:
        return (folder / "modules.json").is_file() or "classifier_from_token" in raw
    return name.endswith(_POOLED_ARCHITECTURES)


def describe_pooling(folder: Path, config: PoolingConfig) -> PoolingDescription:
    """Read the files in `folder`; what `config` says goes before them.

    Raises:
        ModelError: a file is wrong, or asks for a step that is not supported.
    """
    raw = read_json(folder / "config.json")
    name = _architecture(raw)
    steps = _steps(folder)
    pooling = _pooling_config(folder, steps)
    prompts = _optional(folder / "config_sentence_transformers.json")
    dimensions = raw.get("matryoshka_dimensions") or ()
    return PoolingDescription(
        architecture=name,
        raw=raw,
        task=config.task or _task(name, raw),
        method=config.method or _method(pooling),
        # Without sentence-transformers' files an embedding is normalised, as OpenAI's are.
        normalize=steps is None or any(kind == "Normalize" for kind, _ in steps),
        dense=tuple(_dense(folder / path) for kind, path in steps or () if kind == "Dense"),
        max_tokens=_max_tokens(folder),
        prompts=_prompts(prompts),
        default_prompt=prompts.get("default_prompt_name"),
        include_prompt=pooling.get("include_prompt", True) is not False,
        matryoshka=config.matryoshka or bool(raw.get("is_matryoshka")) or bool(dimensions),
        matryoshka_dimensions=tuple(int(size) for size in dimensions),
        activation=_score_activation(raw),
        answers=_answers(name, raw),
    )


def _architecture(raw: dict[str, Any]) -> str:
    names = raw.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def _task(name: str, raw: dict[str, Any]) -> PoolingTask:
    scores = name.endswith(_CLASSIFIER) or "classifier_from_token" in raw
    return "score" if scores else "embed"


def _answers(name: str, raw: dict[str, Any]) -> tuple[str, str] | None:
    if name.endswith(_CLASSIFIER):
        return None
    stated = raw.get("classifier_from_token") or ["no", "yes"]
    if not (isinstance(stated, list) and len(stated) == 2 and all(map(_is_text, stated))):
        raise ModelError(f"config field classifier_from_token must be two texts, not {stated!r}")
    return stated[0], stated[1]


def _score_activation(raw: dict[str, Any]) -> str:
    """What sentence-transformers' CrossEncoder applies: the one it noted, or the logistic one."""
    noted = raw.get("sentence_transformers")
    stated = noted.get("activation_fn") if isinstance(noted, dict) else None
    stated = stated or raw.get("sbert_ce_default_activation_function") or "Sigmoid"
    return _known_activation("config.json", stated)


def _known_activation(where: str, stated: object) -> str:
    name = str(stated).rpartition(".")[2]
    if name not in ACTIVATIONS:
        raise ModelError(f"{where}: activation {name!r} is not one of {', '.join(ACTIVATIONS)}")
    return name


def _max_tokens(folder: Path) -> int | None:
    """The longest input in tokens: sentence-transformers' own, or that of the tokenizer."""
    stated = _optional(folder / "sentence_bert_config.json").get("max_seq_length")
    if stated is None:
        stated = _optional(folder / "tokenizer_config.json").get("model_max_length")
    # A tokenizer without a limit names a huge number.
    return stated if isinstance(stated, int) and 1 <= stated <= _NO_LIMIT else None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _steps(folder: Path) -> list[tuple[str, str]] | None:
    """(kind, folder) of each step behind the transformer; None without `modules.json`."""
    path = folder / "modules.json"
    if not path.is_file():
        return None
    try:
        modules = msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])
        named = [(str(m["type"]).rpartition(".")[2], str(m["path"])) for m in modules]
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError) as exc:
        raise ModelError(f"{path} does not list modules with type and path: {exc}") from exc
    known = ("Transformer", "Pooling", "Dense", "Normalize")
    for kind, where in named:
        if kind not in known:
            raise ModelError(f"{path}: module {kind!r} is not supported; known: {', '.join(known)}")
        if Path(where).is_absolute() or ".." in Path(where).parts:
            raise ModelError(f"{path}: {where!r} must be a folder inside the model's")
    return [step for step in named if step[0] != "Transformer"]


def _pooling_config(folder: Path, steps: list[tuple[str, str]] | None) -> dict[str, Any]:
    paths = [where for kind, where in steps or () if kind == "Pooling"]
    return read_json(folder / paths[0] / "config.json") if paths else {}


def _method(pooling: dict[str, Any]) -> PoolingMethod | None:
    """The one pooling that the file asks for, None where there is no file."""
    if not pooling:
        return None
    # Older files have a flag per mode, newer ones one name or a list of names.
    stated = pooling.get("pooling_mode")
    if stated is None:
        modes = [key for key, on in pooling.items() if key.startswith("pooling_mode_") and on]
        methods = [_MODES.get(mode) for mode in modes]
    else:
        modes = list(stated) if isinstance(stated, list) else [str(stated)]
        methods = [_SHORT_MODES.get(mode) for mode in modes]
    if len(methods) != 1 or methods[0] is None:
        shown = ", ".join(modes) or "none"
        raise ModelError(f"the pooling must be one of cls, mean and last token, not {shown}")
    return methods[0]


def _prompts(stated: dict[str, Any]) -> dict[str, str]:
    prompts = stated.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(map(_is_text, prompts.values())):
        raise ModelError("config_sentence_transformers.json: prompts must be texts by name")
    default = stated.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise ModelError("config_sentence_transformers.json: default_prompt_name names no prompt")
    return prompts


def _dense(folder: Path) -> DenseStep:
    stated = read_json(folder / "config.json")
    activation = _known_activation(folder.name, stated.get("activation_function", "Identity"))
    try:
        return DenseStep(
            folder=folder,
            in_features=int(stated["in_features"]),
            out_features=int(stated["out_features"]),
            bias=bool(stated.get("bias", True)),
            activation=activation,
        )
    except KeyError as exc:
        raise ModelError(f"{folder.name}/config.json lacks {exc}") from exc
