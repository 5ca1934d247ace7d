"""A whole decoder layer as one call of the kernel library."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p
from functools import cache
from typing import ClassVar

import torch

from windlass.backend import SUPPORTED, ForwardContext, KVPool, LayerParts, Linear, Support
from windlass_cpu.attention import AttentionCall, CpuAttention, Plan
from windlass_cpu.library import load_library
from windlass_cpu.linear import KernelWeight
from windlass_cpu.row_calls import MAX_HEAD_DIM, HeadRows, RopeCall


class _LayerLinear(ctypes.Structure):
    """`LayerLinear` of `csrc/layer.h`."""

    _fields_: ClassVar = [
        ("multiply", c_void_p),
        ("packed", c_void_p),
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
        ("plan", c_void_p),
        ("is_first", c_int32),
    ]


def supports_layer(parts: LayerParts) -> Support:
    """Whether the kernels take the layer: bf16 throughout, on weights that they packed."""
    weights = parts.weights
    for linear in (weights.qkv, weights.o, weights.gate_up, weights.down):
        if not isinstance(linear.weight, KernelWeight):
            return Support.no("a weight is not packed for the kernels")
    if weights.input_norm.dtype is not torch.bfloat16:
        return Support.no(f"the kernels compute bfloat16 layers, not {weights.input_norm.dtype}")
    if parts.head_dim > MAX_HEAD_DIM:
        return Support.no(f"heads of {parts.head_dim} channels; the kernels take {MAX_HEAD_DIM}")
    return SUPPORTED


class FusedLayer:
    """A `windlass.backend.LayerFunction` that computes in place, without Python in between."""

    def __init__(self, parts: LayerParts, attention: CpuAttention) -> None:
        self._parts = parts
        self._attention = attention
        self._pool: KVPool | None = None
        self._layer = _DecoderLayer()
        self._address = ctypes.addressof(self._layer)
        self._run = _layer_function()
        self._step = _LayerStep()

    def __call__(
        self,
        hidden: torch.Tensor,
        residual: torch.Tensor | None,
        positions: torch.Tensor,
        context: ForwardContext,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's output in `hidden`, the residual stream in `residual`."""
        plan = context.plan
        assert isinstance(plan, Plan)
        if self._pool is not context.pool:
            self._enter(context.pool)
        step = self._step
        step.is_first = residual is None
        if residual is None:
            hidden = hidden.contiguous()
            residual = torch.empty_like(hidden)
        step.hidden, step.residual = hidden.data_ptr(), residual.data_ptr()
        step.tokens = hidden.shape[0]
        step.positions, step.slots = plan.rows_of(positions, context.slot_mapping)
        step.plan = plan.tasks(self._parts.num_heads, self._parts.attention.window, hidden.dtype)
        self._run(self._address, ctypes.byref(step))
        return hidden, residual

    def _enter(self, pool: KVPool) -> None:
        """Fill in what does not change while the pool is the same."""
        parts, layer, weights = self._parts, self._layer, self._parts.weights
        for name in ("qkv", "o", "gate_up", "down"):
            setattr(layer, name, _layer_linear(getattr(weights, name)))
        layer.input_norm = weights.input_norm.data_ptr()
        layer.post_attention_norm = weights.post_attention_norm.data_ptr()
        layer.eps = parts.eps
        layer.rope = RopeCall(
            query=self._heads(parts.num_heads),
            key=self._heads(parts.num_kv_heads),
            value_head_stride=parts.head_dim,
            head_dim=parts.head_dim,
            cos_sin=parts.cos_sin.data_ptr(),
            rotated=parts.cos_sin.shape[1],
        )
        if (norm := weights.head_norm) is not None:
            layer.rope.query.weight = norm.query.data_ptr()
            layer.rope.key.weight = norm.key.data_ptr()
            layer.rope.eps = norm.eps
        layer.attention = AttentionCall(
            query_head_stride=parts.head_dim,
            out_token_stride=parts.num_heads * parts.head_dim,
            out_head_stride=parts.head_dim,
        )
        addresses = self._attention.addresses(pool)
        addresses.place_rope(layer.rope, parts.index)
        addresses.place_attention(layer.attention, parts.index, parts.attention)
        self._pool = pool

    def _heads(self, count: int) -> HeadRows:
        head_dim = self._parts.head_dim
        return HeadRows(head_stride=head_dim, out_head_stride=head_dim, num_heads=count)


def _layer_linear(linear: Linear) -> _LayerLinear:
    weight = linear.weight
    assert isinstance(weight, KernelWeight)
    return _LayerLinear(
        multiply=weight.multiply_address,
        packed=weight.address,
        outputs=weight.out_features,
        inputs=weight.in_features,
        bias=None if linear.bias is None else linear.bias.data_ptr(),
    )


@cache
def _layer_function() -> ctypes._NamedFuncPointer:
    function = load_library().windlass_decoder_layer
    function.argtypes, function.restype = [c_void_p, c_void_p], None
    return function
