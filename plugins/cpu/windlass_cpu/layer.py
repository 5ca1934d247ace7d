"""All decoder layers as one call of the kernel library."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import c_float, c_int64, c_void_p
from functools import cache
from typing import ClassVar

import torch

from windlass.backend import (
    SUPPORTED,
    ForwardContext,
    KVPool,
    LayerParts,
    Linear,
    MLPWeights,
    Support,
)
from windlass_cpu.attention import AttentionCall, CpuAttention, Plan, slot_numbers
from windlass_cpu.library import declare, load_library
from windlass_cpu.linear import KernelWeight
from windlass_cpu.row_calls import MAX_HEAD_DIM, HeadRows, RopeCall


class _LayerLinear(ctypes.Structure):
    """`LayerLinear` of `csrc/layer.h`."""

    _fields_: ClassVar = [
        ("multiply", c_void_p),
        ("packed", c_void_p),
        ("bytes", c_int64),
        ("outputs", c_int64),
        ("inputs", c_int64),
        ("bias", c_void_p),
    ]


class _DecoderLayer(ctypes.Structure):
    """`DecoderLayer` of `csrc/layer.h`."""

    _fields_: ClassVar = [
        ("qkv", _LayerLinear),
        ("o", _LayerLinear),
        ("gate_up", _LayerLinear),
        ("down", _LayerLinear),
        ("input_norm", c_void_p),
        ("post_attention_norm", c_void_p),
        ("eps", c_float),
        ("rope", RopeCall),
        ("attention", AttentionCall),
    ]


class _LayerStep(ctypes.Structure):
    """`LayerStep` of `csrc/layer.h`."""

    _fields_: ClassVar = [
        ("hidden", c_void_p),
        ("residual", c_void_p),
        ("tokens", c_int64),
        ("positions", c_void_p),
        ("slots", c_void_p),
        ("plans", c_void_p),
    ]


def supports_layer(parts: LayerParts) -> Support:
    """Whether the kernels take the layer: bf16 throughout, on weights that they packed."""
    weights, mlp = parts.weights, parts.weights.mlp
    if not isinstance(mlp, MLPWeights):
        return Support.no("the kernels have no layer with experts")
    for linear in (weights.qkv, weights.o, mlp.gate_up, mlp.down):
        if not isinstance(linear.weight, KernelWeight):
            return Support.no("a weight is not packed for the kernels")
    if weights.input_norm.dtype is not torch.bfloat16:
        return Support.no(f"the kernels compute bfloat16 layers, not {weights.input_norm.dtype}")
    if parts.head_dim > MAX_HEAD_DIM:
        return Support.no(f"heads of {parts.head_dim} channels; the kernels take {MAX_HEAD_DIM}")
    return SUPPORTED


class FusedLayers:
    """A `windlass.backend.LayersFunction` that computes in place, without Python in between."""

    def __init__(self, layers: Sequence[LayerParts], attention: CpuAttention) -> None:
        self._parts = layers
        self._attention = attention
        self._pool: KVPool | None = None
        self._layers = (_DecoderLayer * len(layers))(*map(_decoder_layer, layers))
        self._plans = (c_void_p * len(layers))()
        self._step = _LayerStep(plans=ctypes.addressof(self._plans))
        self._run = _layers_function()

    def __call__(
        self, hidden: torch.Tensor, positions: torch.Tensor, context: ForwardContext
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The last layer's output, which is `hidden` overwritten, and the residual stream."""
        plan = context.plan
        assert isinstance(plan, Plan)
        if self._pool is not context.pool:
            self._enter(context.pool)
        hidden = hidden.contiguous()
        residual = torch.empty_like(hidden)
        step = self._step
        step.hidden, step.residual = hidden.data_ptr(), residual.data_ptr()
        step.tokens = hidden.shape[0]
        positions, slots = positions.contiguous(), slot_numbers(context.slot_mapping)
        step.positions, step.slots = positions.data_ptr(), slots.data_ptr()
        for index, parts in enumerate(self._parts):
            self._plans[index] = plan.tasks(parts.num_heads, parts.attention.window, hidden.dtype)
        self._run(self._layers, len(self._layers), ctypes.byref(step))
        return hidden, residual

    def _enter(self, pool: KVPool) -> None:
        """Say where the keys and values of every layer lie."""
        addresses = self._attention.addresses(pool)
        for layer, parts in zip(self._layers, self._parts, strict=True):
            addresses.place_rope(layer.rope, parts.index)
            addresses.place_attention(layer.attention, parts.index, parts.attention)
        self._pool = pool


def _decoder_layer(parts: LayerParts) -> _DecoderLayer:
    weights, head_dim = parts.weights, parts.head_dim
    mlp = weights.mlp
    assert isinstance(mlp, MLPWeights)

    def heads(count: int) -> HeadRows:
        return HeadRows(head_stride=head_dim, out_head_stride=head_dim, num_heads=count)

    rope = RopeCall(
        query=heads(parts.num_heads),
        key=heads(parts.num_kv_heads),
        value_head_stride=head_dim,
        head_dim=head_dim,
        cos_sin=parts.cos_sin.data_ptr(),
        rotated=parts.cos_sin.shape[1],
    )
    if (norm := weights.head_norm) is not None:
        rope.query.weight, rope.key.weight = norm.query.data_ptr(), norm.key.data_ptr()
        rope.eps = norm.eps
    return _DecoderLayer(
        qkv=_layer_linear(weights.qkv),
        o=_layer_linear(weights.o),
        gate_up=_layer_linear(mlp.gate_up),
        down=_layer_linear(mlp.down),
        input_norm=weights.input_norm.data_ptr(),
        post_attention_norm=weights.post_attention_norm.data_ptr(),
        eps=parts.eps,
        rope=rope,
        attention=AttentionCall(
            query_head_stride=head_dim,
            out_token_stride=parts.num_heads * head_dim,
            out_head_stride=head_dim,
        ),
    )


def _layer_linear(linear: Linear) -> _LayerLinear:
    weight = linear.weight
    assert isinstance(weight, KernelWeight)
    return _LayerLinear(
        multiply=weight.multiply_address,
        packed=weight.address,
        bytes=weight.nbytes,
        outputs=weight.out_features,
        inputs=weight.in_features,
        bias=None if linear.bias is None else linear.bias.data_ptr(),
    )


@cache
def _layers_function() -> Callable[..., int]:
    return declare(load_library(), "windlass_decoder_layers", c_void_p, c_int64, c_void_p)
