"""Rounded weights on Triton kernels: int8, int4 and e4m3, multiplied by unrounded activations.

The values are those of the reference (`windlass.kernels.quantization`), bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from windlass.backend import SUPPORTED, PackedWeight, Quantization, Support
from windlass.kernels.quantization import INT4_GROUP, round_to_fp8, round_to_int4, round_to_int8
from windlass.kernels.triton.launch import KernelSpec
from windlass.kernels.triton.quantized_linear import (
    QuantizedConfig,
    channel_scaled_kernel,
    channel_scaled_linear,
    int4_kernel,
    int4_linear,
    pack_int4,
)
from windlass_cuda.quantized_tuning import MAX_SPLIT_TILES, choose

_CHANNELS = 2048
"""Output channels that are held in fp32 at once while packing."""
_PADDED = 128
"""A channel of 8-bit numbers is padded to a multiple: every step is whole and every row aligned."""
_DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
_FP8_SINCE = (8, 9)
_Packed = tuple[torch.Tensor, torch.Tensor]


def supports_pack_weight(weight: torch.Tensor, quantization: Quantization | None = None) -> Support:
    """Whether the kernels take `weight` `[N, K]`, and this GPU the format."""
    if quantization is None:
        return Support.no("a weight that is not rounded")
    if weight.dim() != 2 or weight.dtype not in _DTYPES or weight.device.type != "cuda":
        return Support.no("the weight is not a matrix of floating-point numbers on the GPU")
    capability = torch.cuda.get_device_capability(weight.device)
    if quantization == "fp8" and capability < _FP8_SINCE:
        return Support.no(
            "fp8 weights need compute capability 8.9 or later to be converted, and this GPU has "
            + ".".join(map(str, capability))
        )
    return SUPPORTED


def pack_weight(weight: torch.Tensor, quantization: Quantization) -> PackedWeight:
    """Round `weight` `[N, K]`; it is not needed any more afterwards."""
    properties = torch.cuda.get_device_properties(weight.device)
    arch = f"sm_{properties.major}{properties.minor}"
    return RoundedWeight(weight, quantization, arch, properties.multi_processor_count)


class RoundedWeight(PackedWeight):
    """A weight `[N, K]` in the packing of the kernels for `arch` ("sm_90")."""

    def __init__(
        self, weight: torch.Tensor, quantization: Quantization, arch: str, multiprocessors: int
    ) -> None:
        self.out_features, self.in_features = weight.shape
        self.quantization = quantization
        self._numbers, self._scales = _PACK[quantization](weight)
        self.nbytes = self._numbers.nbytes + self._scales.nbytes
        self._arrived = torch.zeros(MAX_SPLIT_TILES, dtype=torch.int32, device=weight.device)
        self._linear = int4_linear if quantization == "int4" else channel_scaled_linear
        self._chip = (arch, multiprocessors)
        self._configs: dict[int, QuantizedConfig] = {}

    def apply(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """`x` `[T, K]` times the transposed weight, plus `bias` `[N]`, in the dtype of `x`."""
        return self._product(x, bias, x.dtype)

    def apply_float(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """The same in float32, as it was summed."""
        return self._product(x, bias, torch.float32)

    def _product(
        self, x: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
    ) -> torch.Tensor:
        rows, inputs = x.shape
        if inputs != self.in_features:
            raise ValueError(f"x: expected [T, {self.in_features}], got {list(x.shape)}")
        out = torch.empty((rows, self.out_features), dtype=dtype, device=x.device)
        if rows == 0:
            return out
        config = self._configs.get(rows) or self._choose(rows)
        x = x if x.stride(1) == 1 else x.contiguous()
        self._linear(x, self._numbers, self._scales, bias, out, self._arrived, config)
        return out

    def _choose(self, rows: int) -> QuantizedConfig:
        shape = (rows, self.out_features, self.in_features)
        config = self._configs[rows] = choose(*self._chip, self.quantization, *shape)
        return config


def _pack_by_channel(
    weight: torch.Tensor,
    dtype: torch.dtype,
    round_to: Callable[[torch.Tensor], _Packed],
) -> _Packed:
    channels, inputs = weight.shape
    padded = -(-inputs // _PADDED) * _PADDED
    # Zeroed as bytes: not every kind of 8-bit number can be filled.
    numbers = torch.zeros((channels, padded), dtype=torch.uint8, device=weight.device).view(dtype)
    scales = torch.empty(channels, dtype=torch.float32, device=weight.device)
    for start in range(0, channels, _CHANNELS):
        part = slice(start, start + _CHANNELS)
        rounded, scale = round_to(weight[part].float())
        numbers[part, :inputs] = rounded.to(dtype)
        scales[part] = scale[:, 0]
    return numbers, scales


def _pack_int8(weight: torch.Tensor) -> _Packed:
    return _pack_by_channel(weight, torch.int8, round_to_int8)


def _pack_fp8(weight: torch.Tensor) -> _Packed:
    return _pack_by_channel(weight, torch.float8_e4m3fn, round_to_fp8)


def _pack_int4(weight: torch.Tensor) -> _Packed:
    inputs = weight.shape[1]
    parts = []
    for rows in torch.split(weight, _CHANNELS):
        padded = F.pad(rows.float(), (0, -inputs % INT4_GROUP))
        parts.append(pack_int4(*round_to_int4(padded.view(len(rows), -1, INT4_GROUP))))
    numbers, scales = zip(*parts, strict=True)
    return torch.cat(numbers, dim=1), torch.cat(scales, dim=1)


_PACK = {"int8": _pack_int8, "fp8": _pack_fp8, "int4": _pack_int4}


def quantized_kernel_specs(arch: str, multiprocessors: int = 132) -> list[KernelSpec]:
    """Every kernel with every tile that `choose` takes on `arch`, for bf16 activations."""
    formats: tuple[Quantization, ...] = ("int8", "int4", "fp8")
    if int(arch.removeprefix("sm_")) < 89:
        formats = formats[:2]
    return [
        _spec(arch, f"{quantization}_{rows}", quantization, config)
        for quantization in formats
        for rows in (1, 32, 64, 1024)
        for config in (choose(arch, multiprocessors, quantization, rows, 4096, 4096),)
    ]


def _spec(arch: str, name: str, quantization: Quantization, config: QuantizedConfig) -> KernelSpec:
    int4 = quantization == "int4"
    function = int4_kernel if int4 else channel_scaled_kernel
    constants: dict[str, Any] = {
        "ROWS": config.rows,
        "CHANNELS": config.channels,
        "SPLITS": config.splits,
        "BAND": config.band,
        "EVEN": True,
        "BIAS": False,
        "wait": config.wait,
        "release": config.release,
        **({"UNROLL": config.unroll} if int4 else {"INPUTS": config.inputs}),
    }
    pointers = {
        "x": "*bf16",
        "weight": {"int8": "*i8", "int4": "*u8", "fp8": "*fp8e4nv"}[quantization],
        "scales": "*i32" if int4 else "*fp32",
        "bias": "*bf16",
        "out": "*bf16",
        "partial": "*fp32",
        "arrived": "*i32",
    }
    signature = {
        name: "constexpr" if name in constants else pointers.get(name, "i32")
        for name in function.arg_names
    }
    return KernelSpec(
        name=f"quantized_linear_{name}",
        function=function,
        signature=signature,
        constants=constants,
        config=config,
        divisible=frozenset({"N", "K", "x_stride", "weight_stride", "out_stride"} & set(signature)),
        expects=frozenset({"wgmma"}) if arch == "sm_90" else frozenset(),
    )
