"""What a model folder says of its model, and its weights, for whatever will run them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from windlass.config import ModelConfig
from windlass.errors import ConfigError, ModelError
from windlass.loader.checkpoint import Checkpoint
from windlass.loader.hf_config import eos_token_ids, read_hf_config
from windlass.loader.location import resolve_model
from windlass.models.config import DecoderConfig
from windlass.models.registry import decoder_config

# Tensors that old checkpoints hold although they follow from the configuration.
_DERIVED = "rotary_emb.inv_freq"


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """A model before its weights are read.

    `decoder.max_position` is the context length in tokens, after the user's limit. `dtype` is the
    number format that the configuration names ("bfloat16"), None where it names none.
    """

    folder: Path
    architecture: str
    decoder: DecoderConfig
    dtype: str | None
    eos_token_ids: tuple[int, ...]


def describe_model(config: ModelConfig) -> ModelDescription:
    """Find the folder (or fetch it from the hub) and read its configuration.

    Raises:
        ModelError: the model cannot be found, or its configuration cannot be read or used.
        ConfigError: `max_model_len` is above what the model allows.
    """
    folder = resolve_model(config.model, config.revision, weights=config.load_format != "dummy")
    architecture, hf_config = read_hf_config(folder)
    full = decoder_config(architecture, hf_config)
    dtype = hf_config.dtype
    return ModelDescription(
        folder=folder,
        architecture=architecture,
        decoder=full.limited_to(_max_model_len(config, full)),
        dtype=None if dtype is None else str(dtype).removeprefix("torch."),
        eos_token_ids=eos_token_ids(folder, hf_config),
    )


@contextmanager
def open_checkpoint(
    described: ModelDescription, framework: Literal["pt", "np"] = "pt"
) -> Iterator[Checkpoint]:
    """The model's checkpoint, of which everything must have been read when the block ends.

    Raises:
        ModelError: see `Checkpoint`; or it holds tensors that were not read.
    """
    with Checkpoint(described.folder, framework) as checkpoint:
        yield checkpoint
        left = [name for name in checkpoint.unread if not _is_redundant(name, described.decoder)]
    if left:
        shown = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        raise ModelError(
            f"{described.folder} holds tensors that its config.json does not account for; without "
            f"them the model would answer wrongly: {shown}"
        )


def _max_model_len(config: ModelConfig, model: DecoderConfig) -> int:
    asked = config.max_model_len
    if asked is not None and asked > model.max_position:
        raise ConfigError(
            f"max_model_len must be at most {model.max_position} for {config.model!r}, not {asked}"
        )
    return asked or model.max_position


def _is_redundant(name: str, config: DecoderConfig) -> bool:
    return name.endswith(_DERIVED) or (config.tie_word_embeddings and name == "lm_head.weight")
