"""The model behind embeddings and scores: a class of transformers and what is read from its states.

Encoders and decoders of any architecture that transformers has; there is no KV cache to page.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.utils import logging as transformers_logging

from windlass.config import ModelConfig, PoolingInfo, PoolingMethod
from windlass.errors import ModelError
from windlass.executor.pooling_head import DenseLayers, TextBatch, activation, pool
from windlass.loader.pooling import PoolingDescription
from windlass.models.registry import HFConfig
from windlass.text.tokenizer import Tokenizer

_UNUSED_WEIGHTS = "pooler."
"""Weights of transformers' classes that take no part here and may be missing."""


class PoolingModel(torch.nn.Module):
    """Texts in, a float32 vector of `size` numbers per text out; a score is a vector of one.

    Raises:
        ModelError: the checkpoint lacks weights, or cannot do the task.
    """

    def __init__(
        self,
        folder: Path,
        hf_config: HFConfig,
        described: PoolingDescription,
        config: ModelConfig,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.described = described
        self.method = described.method or default_method(hf_config.model_type)
        asks = described.task == "score" and described.answers is not None
        kind = _class_for(described, asks=asks)
        self.model: Any = _make(kind, folder, hf_config, config, dtype).eval()
        self.model.config.use_cache = False
        self.dense = DenseLayers(described.dense if described.task == "embed" else ())
        self.activation = activation(described.activation)
        self.answers: torch.Tensor | None = None
        if asks:
            self.method = "last"
            self.answers = _answer_rows(self.model, described, config)
        elif described.task == "score" and self.model.config.num_labels != 1:
            raise ModelError(
                f"the classifier has {self.model.config.num_labels} labels: a score needs one label"
            )
        self._arguments = frozenset(inspect.signature(self.model.base_model.forward).parameters)

    @property
    def size(self) -> int:
        """Numbers of a vector before it is shortened."""
        if self.described.task == "score":
            return 1
        dense = self.described.dense
        return dense[-1].out_features if dense else int(self.model.config.hidden_size)

    @property
    def takes_types(self) -> bool:
        """Whether token types tell the texts of a pair apart."""
        types = getattr(self.model.config, "type_vocab_size", 0) or 0
        return "token_type_ids" in self._arguments and types > 1

    @property
    def padding_id(self) -> int:
        """The token that fills a batch up."""
        stated = getattr(self.model.config, "pad_token_id", None)
        return stated if isinstance(stated, int) and stated >= 0 else 0

    @property
    def max_positions(self) -> int | None:
        """Tokens for which there are positions, None where any number will do."""
        limit = getattr(self.model.config, "max_position_embeddings", None)
        embeddings = getattr(self.model.base_model, "embeddings", None)
        padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
        if not isinstance(limit, int) or limit < 1:
            return None
        # RoBERTa's positions start behind that of padding.
        return limit if padding is None else limit - padding - 1

    def forward(self, batch: TextBatch) -> torch.Tensor:
        """float32 [n, size]."""
        arguments: dict[str, Any] = {"input_ids": batch.token_ids}
        if batch.padded:
            arguments["attention_mask"] = batch.mask().long()
        if batch.type_ids is not None:
            arguments["token_type_ids"] = batch.type_ids
        if self.described.task == "score":
            scores: torch.Tensor = self.activation(self._logits(arguments, batch).float())
            return scores
        states = self.model(**arguments).last_hidden_state
        vectors: torch.Tensor = self.dense(pool(states, batch, self.method))
        return vectors

    def _logits(self, arguments: dict[str, Any], batch: TextBatch) -> torch.Tensor:
        """[n, 1]: what the activation makes a score of."""
        if self.answers is None and not hasattr(self.model, "score"):
            logits: torch.Tensor = self.model(**arguments).logits
            return logits
        # The last token's state alone: transformers would look for it by the padding token.
        states = self.model.base_model(**arguments).last_hidden_state
        last = pool(states, batch, "last").to(states.dtype)
        if self.answers is None:
            head: torch.Tensor = self.model.score(last)
            return head
        output = self.model.get_output_embeddings()
        no, yes = torch.nn.functional.linear(
            last,
            output.weight[self.answers],
            None if output.bias is None else output.bias[self.answers],
        ).unbind(1)
        # softmax over the two answers, as the logistic function of their difference.
        return (yes.float() - no.float())[:, None]


def pooling_info(model: PoolingModel) -> PoolingInfo:
    """What the front end needs to know of the model."""
    described = model.described
    return PoolingInfo(
        task=described.task,
        method=model.method,
        dimensions=model.size,
        normalize=described.normalize,
        matryoshka=described.matryoshka,
        matryoshka_dimensions=described.matryoshka_dimensions,
        prompts=described.prompts,
        default_prompt=described.default_prompt,
        include_prompt=described.include_prompt,
        takes_types=model.takes_types,
        asks_yes_or_no=model.answers is not None,
    )


def default_method(model_type: str) -> PoolingMethod:
    """Decoders pool their last token, encoders the mean, as sentence-transformers does."""
    masked = model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    causal = model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return "last" if causal and not masked else "mean"


def _class_for(described: PoolingDescription, *, asks: bool) -> Any:  # noqa: ANN401
    if described.task == "embed":
        return transformers.AutoModel
    if asks:
        return transformers.AutoModelForCausalLM
    return transformers.AutoModelForSequenceClassification


def _make(
    kind: Any,  # noqa: ANN401 - a class of transformers
    folder: Path,
    hf_config: HFConfig,
    config: ModelConfig,
    dtype: torch.dtype,
) -> Any:  # noqa: ANN401
    """The model on the host, from its checkpoint or with seeded random weights."""
    if getattr(hf_config, "is_encoder_decoder", False):
        raise ModelError(f"{hf_config.model_type!r} has an encoder and a decoder: not supported")
    try:
        if config.load_format == "dummy":
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(config.seed)
                return kind.from_config(hf_config, trust_remote_code=False, dtype=dtype)
        with _no_progress_bar():
            model, found = kind.from_pretrained(
                folder,
                config=hf_config,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                dtype=dtype,
            )
    # transformers raises what it likes for a folder that is not as it should be.
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as exc:
        reason = " ".join(str(exc).split())[:400]
        raise ModelError(f"{folder} cannot be loaded: {reason}") from exc
    missing = [name for name in sorted(found["missing_keys"]) if _UNUSED_WEIGHTS not in name]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if missing[5:] else "")
        raise ModelError(f"{folder} lacks weights that {type(model).__name__} needs: {shown}")
    return model


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _answer_rows(model: Any, described: PoolingDescription, config: ModelConfig) -> torch.Tensor:  # noqa: ANN401
    """The rows of the output layer for "no" and "yes"."""
    if model.get_output_embeddings() is None:
        raise ModelError("the model has no output layer to answer yes or no with")
    tokenizer = Tokenizer.load(*config.tokenizer_location)
    rows = [tokenizer.encode(text, add_special_tokens=False) for text in described.answers or ()]
    if any(len(row) != 1 for row in rows):
        raise ModelError(f"the answers {described.answers!r} are not one token each")
    return torch.tensor([row[0] for row in rows])
