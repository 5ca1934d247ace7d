"""Loading a decoder: configuration, number format, context length, weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from windlass.backend import Backend, MLPWeights, QuantizedWeight
from windlass.config import ModelConfig, Quantization
from windlass.errors import ModelError, UnsupportedError
from windlass.loader.describe import describe_model, open_checkpoint
from windlass.loader.dummy import DummyTensors
from windlass.loader.weights import read_weights
from windlass.models.config import DecoderConfig, attention_needs
from windlass.models.decoder import Decoder
from windlass.models.weights import DecoderWeights

logger = logging.getLogger(__name__)

Progress = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A decoder that is ready to run, and what was resolved on the way.

    `decoder_config.max_position` equals `max_model_len`, in tokens. `num_parameters` counts a
    tied embedding once; `weight_bytes` is what the packed weights take.
    """

    decoder: Decoder
    decoder_config: DecoderConfig
    architecture: str
    dtype: torch.dtype
    max_model_len: int
    num_parameters: int
    weight_bytes: int
    eos_token_ids: tuple[int, ...]


def load_decoder(
    config: ModelConfig, backend: Backend, progress: Progress | None = None
) -> LoadedModel:
    """Load `config.model` onto `backend`; `progress` gets (what is done, share done).

    Raises:
        ModelError: the checkpoint cannot be found, read or used.
        ConfigError: `max_model_len` is above what the model allows.
        UnsupportedError: the backend lacks a number format or attention feature.
    """
    described = describe_model(config)
    decoder_cfg = described.decoder
    dtype = resolve_dtype(config.dtype, described.dtype, backend)
    _check_backend(decoder_cfg, dtype, backend)

    read = partial(
        read_weights,
        config=decoder_cfg,
        backend=backend,
        dtype=dtype,
        quantization=config.quantization,
        report=partial(progress or _no_progress, "Loading weights"),
    )
    if config.load_format == "dummy":
        weights = read(DummyTensors(config.seed, decoder_cfg.initializer_range))
    else:
        with open_checkpoint(described) as checkpoint:
            weights = read(checkpoint)
    _report(weights, config.quantization, dtype, backend)
    return LoadedModel(
        decoder=Decoder(decoder_cfg, weights, backend),
        decoder_config=decoder_cfg,
        architecture=described.architecture,
        dtype=dtype,
        max_model_len=decoder_cfg.max_position,
        num_parameters=decoder_cfg.num_parameters,
        weight_bytes=weights.nbytes,
        eos_token_ids=described.eos_token_ids,
    )


def _no_progress(what: str, share: float) -> None:
    del what, share


def resolve_dtype(asked: str, stated: str | None, backend: Backend) -> torch.dtype:
    """The number format asked for, or the one that the checkpoint states, or one of the backend's.

    Raises:
        ModelError: the checkpoint states one that torch does not know.
    """
    supported = backend.capabilities.dtypes
    if asked != "auto":
        return _torch_dtype(asked)
    stored = _torch_dtype(stated) if stated is not None else supported[0]
    if stored in supported:
        return stored
    same_size = [dtype for dtype in supported if dtype.itemsize == stored.itemsize]
    chosen = (same_size or supported)[0]
    logger.info("backend %s has no %s; using %s", backend.spec.name, stored, chosen)
    return chosen


def _torch_dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ModelError(f"config field dtype is {name!r}, which is no number format of torch")
    return dtype


def _check_backend(config: DecoderConfig, dtype: torch.dtype, backend: Backend) -> None:
    missing = backend.capabilities.missing_for(dtype=dtype, **attention_needs(config))
    if missing:
        raise UnsupportedError(
            f"backend {backend.spec.name!r} lacks what the model needs: {'; '.join(missing)}"
        )


def _report(
    weights: DecoderWeights,
    quantization: Quantization | None,
    dtype: torch.dtype,
    backend: Backend,
) -> None:
    name = str(dtype).removeprefix("torch.")
    logger.info("weights take %.0f MiB as %s", weights.nbytes / (1 << 20), quantization or name)
    linears = [weights.lm_head]
    for layer in weights.layers:
        linears += [layer.qkv, layer.o]
        if isinstance(layer.mlp, MLPWeights):
            linears += [layer.mlp.gate_up, layer.mlp.down]
    slow = sum(isinstance(linear.weight, QuantizedWeight) for linear in linears)
    if slow:
        logger.warning(
            "backend %s has no kernel that multiplies %d of %d linear layers as %s by %s: the "
            "torch reference does, which saves memory and costs speed%s",
            backend.spec.name,
            slow,
            len(linears),
            quantization,
            name,
            "" if dtype is torch.bfloat16 else "; dtype bfloat16 may have one",
        )
