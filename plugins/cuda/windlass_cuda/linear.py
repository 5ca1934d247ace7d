"""Dense weights: our kernels for few rows, the vendor's library for many."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from windlass.backend import SUPPORTED, DenseWeight, PackedWeight, Quantization, Support
from windlass.kernels.triton.fused_linear import LinearConfig, fused_linear_kernel
from windlass.kernels.triton.launch import KernelSpec
from windlass.kernels.triton.skinny_linear import (
    skinny_linear,
    skinny_linear_kernel,
    split_counters,
)
from windlass_cuda.linear_tuning import MOST_ROWS, fused_config, linear_config, padded_rows

_KERNEL_DTYPES = (torch.bfloat16, torch.float16)


def supports_pack_weight(weight: torch.Tensor, quantization: Quantization | None = None) -> Support:
    """Whether `weight` stays as it is, on the GPU, in a dtype of the kernels."""
    if quantization is not None:
        return Support.no("a weight that is to be rounded")
    if weight.dim() != 2 or weight.dtype not in _KERNEL_DTYPES or weight.device.type != "cuda":
        return Support.no("the weight is not a 16-bit matrix on the GPU")
    return SUPPORTED


def pack_weight(weight: torch.Tensor, quantization: Quantization | None = None) -> PackedWeight:
    """`weight` `[N, K]` as it is, for the kernels of its GPU."""
    del quantization
    properties = torch.cuda.get_device_properties(weight.device)
    arch = f"sm_{properties.major}{properties.minor}"
    return GpuWeight(weight, arch)


class GpuWeight(DenseWeight):
    """A 16-bit weight `[N, K]` on a GPU of `arch` ("sm_90")."""

    def __init__(self, weight: torch.Tensor, arch: str) -> None:
        super().__init__(weight.contiguous())
        self._counters = split_counters(self.out_features, weight.device)
        self._configs: list[LinearConfig | None] = [
            linear_config(arch, rows, self.out_features, self.in_features)
            for rows in range(MOST_ROWS + 1)
        ]

    def apply(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """`x` `[T, K]` times the transposed weight, plus `bias` `[N]`, summed in fp32."""
        config = self._config(x)
        if config is None:
            return F.linear(x, self.weight, bias)
        return skinny_linear(x, self.weight, bias, config, counters=self._counters)

    def apply_float(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """The same in float32, as it was summed."""
        config = self._config(x)
        if config is not None:
            counters, dtype = self._counters, torch.float32
            return skinny_linear(x, self.weight, bias, config, counters=counters, out_dtype=dtype)
        if not x.is_cuda:
            return super().apply_float(x, bias)
        out = torch.mm(x, self.weight.t(), out_dtype=torch.float32)
        return out if bias is None else out.add_(bias)

    def _config(self, x: torch.Tensor) -> LinearConfig | None:
        rows = x.shape[0]
        return self._configs[rows] if rows <= MOST_ROWS and x.stride(1) == 1 else None


def linear_kernel_specs(arch: str) -> list[KernelSpec]:
    """The kernels with the tiles that they get on `arch` for the layers of two models."""
    specs = {}
    for outputs, inputs in ((4096, 1024), (4096, 14336), (28672, 4096)):
        for rows in (1, 4, 16, 64):
            config = linear_config(arch, rows, outputs, inputs)
            if config is not None:
                spec = _linear_spec(arch, config, outputs, inputs)
                specs[spec.name] = spec
    for outputs, inputs, gated, rows in (
        (4096, 1024, False, 1),
        (3072, 1024, True, 1),
        (3072, 1024, True, 4),
        (14336, 4096, True, 2),
    ):
        config = fused_config(arch, rows, outputs, inputs, gated=gated)
        if config is not None:
            spec = _fused_spec(config, outputs, inputs, norm=True, gated=gated)
            specs[spec.name] = spec
    return list(specs.values())


def _linear_spec(arch: str, config: LinearConfig, outputs: int, inputs: int) -> KernelSpec:
    if config.block_m < 16:
        return _fused_spec(config, outputs, inputs, norm=False, gated=False)
    steps = -(-inputs // config.block_k)
    constants = {
        **_tiles(config, outputs, inputs),
        "SPLIT_K": min(config.split_k, steps),
        "HAS_BIAS": False,
        "PRECISION": "tf32",
    }
    wgmma = arch == "sm_90" and config.block_n >= 64
    name = f"skinny_linear_{config.block_m}x{outputs}x{inputs}"
    return _spec(name, skinny_linear_kernel, config, constants, {"wgmma"} if wgmma else set())


def _fused_spec(
    config: LinearConfig, outputs: int, inputs: int, *, norm: bool, gated: bool
) -> KernelSpec:
    width = padded_rows(inputs)
    constants = {
        **_tiles(config, outputs, inputs),
        "BLOCK_K": min(config.block_k, width),
        "WIDTH": width,
        "NORM": norm,
        "ADD": norm,
        "GATED": gated,
        "HAS_BIAS": False,
    }
    kind = f"{'_normed' * norm}{'_gated' * gated}"
    name = f"fused_linear_{config.block_m}x{outputs}x{inputs}{kind}"
    return _spec(name, fused_linear_kernel, config, constants, set())


def _tiles(config: LinearConfig, outputs: int, inputs: int) -> dict[str, Any]:
    return {
        "K": inputs,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
        "EVEN_N": outputs % config.block_n == 0,
        "EVICTION": config.eviction,
        "STAGES": config.num_stages,
        "wait": config.wait,
        "release": config.release,
    }


def _spec(
    name: str,
    function: Any,  # noqa: ANN401 - triton's functions are untyped
    config: LinearConfig,
    constants: dict[str, Any],
    expects: set[str],
) -> KernelSpec:
    others = {"M": "i32", "N": "i32", "x_stride": "i32", "eps": "fp32"}
    others |= {"partial": "*fp32", "counters": "*i32"}
    return KernelSpec(
        name=name,
        function=function,
        signature={
            argument: "constexpr" if argument in constants else others.get(argument, "*bf16")
            for argument in function.arg_names
        },
        constants=constants,
        config=config,
        divisible=frozenset({"N", "x_stride"}),
        expects=frozenset(expects),
    )
