"""Rounded weights on Triton kernels: int8, int4 and e4m3, multiplied by unrounded activations.

The values are those of the reference (`windlass.kernels.quantization`), bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch

from windlass.backend import SUPPORTED, PackedWeight, Quantization, Support
from windlass.kernels.triton.launch import KernelSpec
from windlass.kernels.triton.quantized_linear import (
    PARTS,
    QuantizedConfig,
    pack,
    quantized_linear,
    quantized_linear_kernel,
)
from windlass_cuda.quantized_tuning import MAX_SPLIT_TILES, choose

_CHANNELS = 2048
"""Output channels that are held in fp32 at once while packing."""
_DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
_FP8_SINCE = (8, 9)


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
    """A weight `[N, K]` on a GPU of `arch` ("sm_90") with so many multiprocessors.

    `packed` is what `windlass.kernels.triton.quantized_linear.pack` gives.
    """

    def __init__(
        self, weight: torch.Tensor, quantization: Quantization, arch: str, multiprocessors: int
    ) -> None:
        self.out_features, self.in_features = weight.shape
        self.quantization = quantization
        self.packed = _packed(weight, quantization)
        self.nbytes = sum(part.nbytes for part in self.packed)
        self._arrived = torch.zeros(MAX_SPLIT_TILES, dtype=torch.int32, device=weight.device)
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
        quantized_linear(*(x, *self.packed, bias, out, self._arrived, self.quantization, config))
        return out

    def _choose(self, rows: int) -> QuantizedConfig:
        shape = (rows, self.out_features, self.in_features)
        config = self._configs[rows] = choose(*self._chip, self.quantization, *shape)
        return config


def _packed(weight: torch.Tensor, quantization: Quantization) -> tuple[torch.Tensor, torch.Tensor]:
    """`pack` of the whole weight, some channels at a time."""
    parts = [pack(rows, quantization) for rows in torch.split(weight, _CHANNELS)]
    numbers, scales = zip(*parts, strict=True)
    return torch.cat(numbers, dim=1), torch.cat(scales, dim=-1)


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
    constants: dict[str, Any] = {
        "FORMAT": quantization,
        "PARTS": PARTS[quantization],
        "ROWS": config.rows,
        "CHANNELS": config.channels,
        "SPLIT": config.splits > 1,
        "BAND": config.band,
        "EVEN": True,
        "BIAS": False,
        "SCALE_SUMS": config.scale_sums,
        "unpacked": config.unpacked,
        "wait": config.wait,
        "release": config.release,
    }
    pointers = {
        **dict.fromkeys(("x", "bias", "out"), "*bf16"),
        "weight": "*i16",
        "scales": "*i64" if quantization == "int4" else "*fp32",
        "partial": "*fp32",
        "arrived": "*i32",
    }
    signature = {
        name: "constexpr" if name in constants else pointers.get(name, "i32")
        for name in quantized_linear_kernel.arg_names
    }
    return KernelSpec(
        name=f"quantized_linear_{name}",
        function=quantized_linear_kernel,
        signature=signature,
        constants=constants,
        config=config,
        divisible=frozenset({"N", "K", "x_stride", "out_stride"}),
        expects=frozenset({"wgmma"}) if arch == "sm_90" else frozenset(),
    )
