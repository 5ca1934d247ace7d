"""Implements `windlass.pooling.PoolingRunner` with transformers' models on a backend's device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from msgspec.structs import replace

from windlass.backend import Backend, Event
from windlass.config import EngineConfig, ModelInfo
from windlass.errors import ConfigError, ModelError
from windlass.executor.device_queue import DeviceQueue
from windlass.executor.pooling_head import TextBatch
from windlass.executor.pooling_model import PoolingModel, pooling_info
from windlass.executor.transfers import Transfers
from windlass.loader.hf_config import auto_config
from windlass.loader.load import resolve_dtype
from windlass.loader.location import resolve_files, resolve_model
from windlass.loader.pooling import PoolingDescription, describe_pooling
from windlass.request import PoolingOptions, Request

_DENSE_WEIGHTS = "*_Dense/model.safetensors"
_WARM_UP_TOKENS = 8


@dataclass(slots=True)
class _Launched:
    """A batch on the device and the host copy that it will fill."""

    requests: Sequence[Request]
    vectors: torch.Tensor
    event: Event


class _Handle:
    def __init__(self, launched: Future[_Launched]) -> None:
        self._launched = launched

    def collect(self) -> list[bytes | None]:
        """Wait, then shorten and normalise each vector on the host."""
        launched = self._launched.result()
        launched.event.synchronize()
        rows = launched.vectors.numpy()
        return [finish(row, _options(r)) for row, r in zip(rows, launched.requests, strict=True)]


class TorchPoolingRunner:
    """Batches of texts on one device of torch; see `windlass.pooling.PoolingRunner`."""

    def __init__(self, config: EngineConfig, backend: Backend) -> None:
        self._config = config
        self._backend = backend
        self._transfers = Transfers(backend)
        self._queue = DeviceQueue(asynchronous=backend.capabilities.asynchronous)
        self._model: PoolingModel

    def load(self, progress: Callable[[str, float], None] | None = None) -> ModelInfo:
        """Load the weights onto the device and run one text.

        Raises:
            ModelError: the checkpoint cannot be found, read or used.
            ConfigError: `max_model_len` is above what the model allows, or a setting does not go
                with a model that embeds or scores.
        """
        return self._queue.submit(lambda: self._load(progress)).result()

    @torch.inference_mode()
    def _load(self, progress: Callable[[str, float], None] | None) -> ModelInfo:
        started = time.monotonic()
        config, backend = self._config.model, self._backend
        if config.quantization is not None:
            raise ConfigError("quantization does not go with a model that embeds or scores")
        backend.device.activate()
        if progress is not None:
            progress("Loading weights", 0.0)
        folder, described = self._describe()
        hf_config = auto_config(folder, described.raw)
        if getattr(hf_config, "quantization_config", None):
            raise ModelError("config field quantization_config: quantised checkpoints do not load")
        stated = getattr(hf_config, "dtype", None)
        stated = None if stated is None else str(stated).removeprefix("torch.")
        dtype = resolve_dtype(config.dtype, stated, backend)
        model = PoolingModel(folder, hf_config, described, config, dtype)
        self._model = model.to(backend.device.torch_device)
        info = self._info(hf_config.vocab_size, described, dtype)
        self._warm_up(info)
        if progress is not None:
            progress("Loading weights", 1.0)
        return replace(info, load_seconds=time.monotonic() - started)

    def _describe(self) -> tuple[Path, PoolingDescription]:
        config = self._config.model
        weights = config.load_format != "dummy"
        folder = resolve_model(config.model, config.revision, weights=weights)
        described = describe_pooling(folder, self._config.pooling)
        if described.dense:
            resolve_files(config.model, config.revision, (_DENSE_WEIGHTS,))
        return folder, described

    def _info(
        self, vocab_size: int, described: PoolingDescription, dtype: torch.dtype
    ) -> ModelInfo:
        model, scheduler = self._model, self._config.scheduler
        parameters = list(model.parameters())
        return ModelInfo(
            model=self._config.model.model,
            architecture=described.architecture,
            backend=self._backend.spec.name,
            device=str(self._backend.device.torch_device),
            dtype=str(dtype).removeprefix("torch."),
            vocab_size=vocab_size,
            max_model_len=self._max_model_len(described),
            block_size=0,
            num_blocks=0,
            max_num_seqs=scheduler.max_num_seqs,
            max_num_batched_tokens=scheduler.token_budget(
                self._backend.capabilities.preferred_token_budget
            ),
            num_parameters=sum(p.numel() for p in parameters),
            weight_bytes=sum(p.numel() * p.element_size() for p in parameters),
            kv_cache_bytes=0,
            load_seconds=0.0,
            pooling=pooling_info(model),
        )

    def _max_model_len(self, described: PoolingDescription) -> int:
        """The user's limit, or the smaller one of the checkpoint's and that of the positions."""
        asked, positions = self._config.model.max_model_len, self._model.max_positions
        if asked is not None and positions is not None and asked > positions:
            raise ConfigError(
                f"max_model_len must be at most {positions} for {self._config.model.model!r}, "
                f"not {asked}"
            )
        known = [limit for limit in (described.max_tokens, positions) if limit is not None]
        if asked is None and not known:
            raise ConfigError("the model states no longest input: set max_model_len")
        return asked or min(known)

    def _warm_up(self, info: ModelInfo) -> None:
        """Let the device compile what a batch needs."""
        count = min(_WARM_UP_TOKENS, info.max_model_len)
        batch = self._upload([[0] * count, [0] * max(1, count // 2)], [PoolingOptions()] * 2)
        self._model(batch)
        self._backend.device.synchronize()

    def launch(self, requests: Sequence[Request]) -> _Handle:
        """Start a batch."""
        return _Handle(self._queue.submit(lambda: self._run(requests)))

    @torch.inference_mode()
    def _run(self, requests: Sequence[Request]) -> _Launched:
        batch = self._upload([r.prompt_token_ids for r in requests], [*map(_options, requests)])
        vectors = self._transfers.download(self._model(batch))
        event = self._backend.device.event()
        event.record()
        return _Launched(requests, vectors, event)

    def _upload(
        self, token_ids: Sequence[list[int]], options: Sequence[PoolingOptions]
    ) -> TextBatch:
        lengths = [len(ids) for ids in token_ids]
        longest = max(lengths)
        padding = self._model.padding_id
        padded = [ids + [padding] * (longest - len(ids)) for ids in token_ids]
        types = [opt.type_ids for opt in options]
        type_ids = None
        if any(types):
            filled = [(t or []) + [0] * (longest - len(t or [])) for t in types]
            type_ids = self._transfers.upload(filled, torch.int64)
        return TextBatch(
            token_ids=self._transfers.upload(padded, torch.int64),
            lengths=self._transfers.upload(lengths, torch.int64),
            skips=self._transfers.upload([opt.skip_tokens for opt in options], torch.int64),
            type_ids=type_ids,
            padded=min(lengths) < longest,
        )

    def reset(self) -> None:
        """Run something trivial: a device that lost its context cannot."""

        def probe() -> None:
            device = self._backend.device
            device.empty_cache()
            torch.zeros(1, device=device.torch_device).add_(1)
            device.synchronize()

        self._queue.submit(probe).result()

    def close(self) -> None:
        """Give back the weights and the worker thread."""
        self._queue.close()
        self.__dict__.pop("_model", None)
        self._backend.device.empty_cache()
        self._backend.close()


def _options(request: Request) -> PoolingOptions:
    return request.pooling or PoolingOptions()


def finish(row: npt.NDArray[np.float32], options: PoolingOptions) -> bytes | None:
    """The vector as the client gets it; None where its numbers are not finite."""
    if not np.isfinite(row).all():
        return None
    vector = row[: options.dimensions]
    if options.normalize:
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return vector.astype("<f4").tobytes()
