"""What the decoder wants of a checkpoint, tensor by tensor, in the order of the layers.

Every tensor is read into its final place: the parts of a merged weight go slice by slice into
one destination, which is packed before the next is made. So no second copy of the weights exists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from windlass.backend import (
    Backend,
    DenseWeight,
    ExpertWeights,
    HeadNorm,
    LayerWeights,
    Linear,
    MLPWeights,
    PackedWeight,
    Quantization,
)
from windlass.loader.checkpoint import TensorSource
from windlass.loader.experts import fill_experts, find_experts
from windlass.models.config import DecoderConfig, ExpertsConfig
from windlass.models.weights import DecoderWeights

Part = tuple[str, int]


class WeightReader:
    """Reads tensors onto a backend's device in one dtype, and counts their bytes."""

    def __init__(self, source: TensorSource, backend: Backend, dtype: torch.dtype) -> None:
        self.source = source
        self.nbytes = 0
        self._dtype = dtype
        self._device = backend.device.torch_device
        self._pack_weight = backend.ops.pack_weight
        self._pack_experts = backend.ops.pack_experts

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        """One tensor as it is in the checkpoint."""
        tensor = self._empty(*shape)
        self.source.fill(name, tensor)
        self.nbytes += tensor.nbytes
        return tensor

    def linear(
        self,
        parts: Sequence[Part],
        in_features: int,
        bias: bool = False,
        *,
        quantization: Quantization | None,
    ) -> Linear:
        """Linear layers over the same input merged into one.

        `parts` are (name, out_features); the checkpoint holds `name.weight` and `name.bias`.
        """
        weight = self._pack_weight(self._merged(parts, ".weight", in_features), quantization)
        linear = Linear(weight, self._merged(parts, ".bias") if bias else None)
        self.nbytes += linear.nbytes
        return linear

    def experts(
        self,
        layer: str,
        hidden: int,
        config: ExpertsConfig,
        *,
        quantization: Quantization | None,
    ) -> ExpertWeights:
        """The router and the experts of the layer `layer`. The router is never rounded."""
        names = find_experts(self.source, layer)
        router = self.linear([(names.router, config.num_experts)], hidden, quantization=None)
        count, intermediate = config.num_experts, config.intermediate_size
        gate_up = self._empty(count, 2 * intermediate, hidden)
        down = self._empty(count, hidden, intermediate)
        fill_experts(self.source, names, gate_up, down)
        experts = self._pack_experts(gate_up, down, quantization)
        self.nbytes += experts.nbytes
        return ExpertWeights(
            router=router,
            experts=experts,
            top_k=config.top_k,
            renormalize=config.renormalize,
        )

    def embedding(self, name: str, rows: int, columns: int) -> PackedWeight:
        """A table to look rows up in."""
        return DenseWeight(self.tensor(name + ".weight", rows, columns))

    def _merged(self, parts: Sequence[Part], suffix: str, *columns: int) -> torch.Tensor:
        merged = self._empty(sum(rows for _, rows in parts), *columns)
        start = 0
        for name, rows in parts:
            self.source.fill(name + suffix, merged[start : start + rows])
            start += rows
        return merged

    def _empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=self._dtype, device=self._device)


def read_weights(
    source: TensorSource,
    config: DecoderConfig,
    backend: Backend,
    dtype: torch.dtype,
    quantization: Quantization | None,
    report: Callable[[float], None],
) -> DecoderWeights:
    """All weights of a decoder; `report` gets the share that is done.

    Of a quantised model embedding and norms stay in `dtype`, and the output layer, whose errors
    nothing averages, is never below int8.

    Raises:
        ModelError: see `Checkpoint.fill`.
    """
    reader = WeightReader(source, backend, dtype)
    vocab, hidden, prefix = config.vocab_size, config.hidden_size, source.prefix
    output: Quantization | None = "int8" if quantization else None
    done = vocab * hidden
    report(0.0)
    table = f"{prefix}embed_tokens"
    if config.tie_word_embeddings:
        lm_head = reader.linear([(table, vocab)], hidden, quantization=output)
    if config.tie_word_embeddings and lm_head.weight.keeps_rows:
        embedding = lm_head.weight
    else:
        embedding = reader.embedding(table, vocab, hidden)
    layers = []
    for layer in range(config.num_layers):
        report(done / config.num_parameters)
        layers.append(_read_layer(reader, config, quantization, layer))
        done += config.parameters_of(layer)
    norm = reader.tensor(f"{prefix}norm.weight", hidden)
    if not config.tie_word_embeddings:
        report(done / config.num_parameters)
        lm_head = reader.linear([("lm_head", vocab)], hidden, quantization=output)
    report(1.0)
    return DecoderWeights(
        embedding=embedding,
        layers=tuple(layers),
        norm=norm,
        lm_head=lm_head,
        nbytes=reader.nbytes,
    )


def _read_layer(
    reader: WeightReader, config: DecoderConfig, quantization: Quantization | None, layer: int
) -> LayerWeights:
    linear = partial(reader.linear, quantization=quantization)
    name, hidden = f"{reader.source.prefix}layers.{layer}", config.hidden_size
    attention, experts = f"{name}.self_attn", config.experts_of(layer)
    qkv = [
        (f"{attention}.q_proj", config.q_size),
        (f"{attention}.k_proj", config.kv_size),
        (f"{attention}.v_proj", config.kv_size),
    ]
    head_norm = None
    if config.qk_norm:
        head_norm = HeadNorm(
            query=reader.tensor(f"{attention}.q_norm.weight", config.head_dim),
            key=reader.tensor(f"{attention}.k_norm.weight", config.head_dim),
            eps=config.rms_norm_eps,
        )
    return LayerWeights(
        input_norm=reader.tensor(f"{name}.input_layernorm.weight", hidden),
        qkv=linear(qkv, hidden, config.qkv_bias),
        head_norm=head_norm,
        o=linear([(f"{attention}.o_proj", hidden)], config.q_size, config.o_bias),
        post_attention_norm=reader.tensor(f"{name}.post_attention_layernorm.weight", hidden),
        mlp=_read_mlp(reader, config, quantization, f"{name}.mlp")
        if experts is None
        else reader.experts(name, hidden, experts, quantization=quantization),
    )


def _read_mlp(
    reader: WeightReader, config: DecoderConfig, quantization: Quantization | None, name: str
) -> MLPWeights:
    linear = partial(reader.linear, quantization=quantization)
    hidden, intermediate = config.hidden_size, config.intermediate_size
    gate_up = [(f"{name}.gate_proj", intermediate), (f"{name}.up_proj", intermediate)]
    return MLPWeights(
        gate_up=linear(gate_up, hidden, config.mlp_bias),
        down=linear([(f"{name}.down_proj", hidden)], intermediate, config.mlp_bias),
    )
