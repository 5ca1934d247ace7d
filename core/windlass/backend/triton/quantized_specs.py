"""Kernels of products with rounded weights, with sizes of a real model."""

from __future__ import annotations

from typing import Any

from windlass.backend.triton.tuning import TritonTuning
from windlass.config import Quantization
from windlass.kernels.triton.launch import KernelSpec
from windlass.kernels.triton.quantized_linear import (
    PARTS,
    QuantizedConfig,
    quantized_linear_kernel,
)

_FORMATS: tuple[Quantization, ...] = ("int8", "int4", "fp8")


def quantized_kernel_specs(tuning: TritonTuning) -> list[KernelSpec]:
    """Every kernel with every tile of the tuning, for bf16 activations."""
    return [
        _spec(tuning, f"{quantization}_{rows}", quantization, config)
        for quantization in _FORMATS
        if tuning.supports_quantization(quantization)
        for rows in (1, 32, 64, 1024)
        for config in (tuning.quantized_config(quantization, rows, 4096, 4096),)
    ]


def _spec(
    tuning: TritonTuning, name: str, quantization: Quantization, config: QuantizedConfig
) -> KernelSpec:
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
        expects=tuning.expects("quantized", config.channels),
    )
