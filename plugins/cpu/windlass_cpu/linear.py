"""Linear layers on the kernels of `csrc/linear*`: weights packed once, then streamed in order."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch

from windlass.backend import SUPPORTED, PackedWeight, Quantization, Support
from windlass_cpu.library import declare, load_library
from windlass_cpu.memory import map_memory

_POINTER, _SIZE, _FLAG = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int


class Kernels(NamedTuple):
    """The C functions of one weight format; `csrc/linear_<format>.h` describes them."""

    packed_bytes: Callable[..., int]
    pack: Callable[..., int]
    multiply: Callable[..., int]


@cache
def kernels(weight_format: str) -> Kernels:
    """The functions for weights in `weight_format`.

    Raises:
        OSError: the library was not built, or does not fit this machine.
    """
    library = load_library()
    prefix = f"windlass_linear_{weight_format}"
    matrix = (_POINTER, _SIZE, _SIZE)
    return Kernels(
        declare(library, f"{prefix}_packed_bytes", _SIZE, _SIZE, result=_SIZE),
        declare(library, f"{prefix}_pack", _POINTER, _FLAG, _SIZE, _SIZE, _SIZE, _POINTER),
        declare(library, prefix, *matrix, *matrix, _POINTER, _POINTER, _SIZE, _FLAG),
    )


@cache
def _gather() -> Callable[..., int]:
    arguments = (_POINTER, _SIZE, _SIZE, _POINTER, _SIZE, _POINTER)
    return declare(load_library(), "windlass_linear_bf16_rows", *arguments)


class KernelWeight(PackedWeight):
    """A weight `[N, K]` in panels of 32 output channels, in one of the kernels' formats.

    Raises:
        ValueError: the weight's type or shape is not one that the format packs.
    """

    weight_format: ClassVar[str]
    sources: ClassVar[tuple[torch.dtype, ...]] = (torch.bfloat16, torch.float32)
    most_inputs: ClassVar[int] = 65536

    def __init__(self, weight: torch.Tensor) -> None:
        functions = kernels(self.weight_format)
        self.out_features, self.in_features = weight.shape
        if weight.dtype not in self.sources or self.in_features > self.most_inputs:
            raise ValueError(
                f"weight: {self.weight_format} packs {self.sources} of at most "
                f"{self.most_inputs} inputs, got {weight.dtype} {list(weight.shape)}"
            )
        self.nbytes = functions.packed_bytes(self.out_features, self.in_features)
        self._memory = map_memory(self.nbytes)
        self.address = self._memory.data_ptr()
        self._multiply: Any = functions.multiply
        rows = weight if weight.stride(1) == 1 else weight.contiguous()
        functions.pack(
            rows.data_ptr(),
            rows.dtype is torch.float32,
            rows.stride(0),
            *rows.shape,
            self.address,
        )

    @property
    def multiply_address(self) -> int:
        """Where the C function lies that multiplies with this weight."""
        return ctypes.cast(self._multiply, _POINTER).value or 0

    def apply(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """`x` `[T, K]` times the transposed weight, plus `bias` `[N]`: `[T, N]`, all bf16."""
        return self._product(x, bias, torch.bfloat16)

    def apply_float(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """What `apply` computes, in fp32 as it was summed: logits without another pass."""
        return self._product(x, bias, torch.float32)

    def _product(
        self, x: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
    ) -> torch.Tensor:
        rows, columns = x.shape
        if x.dtype is not torch.bfloat16 or columns != self.in_features:
            raise ValueError(
                f"x: expected bfloat16 [T, {self.in_features}], got {x.dtype} {list(x.shape)}"
            )
        if x.stride(1) != 1:
            x = x.contiguous()
        outputs = self.out_features
        output = torch.empty((rows, outputs), dtype=dtype)
        self._multiply(
            self.address,
            outputs,
            columns,
            x.data_ptr(),
            x.stride(0),
            rows,
            None if bias is None else self._bias_address(bias),
            output.data_ptr(),
            outputs,
            dtype is torch.float32,
        )
        return output

    def _bias_address(self, bias: torch.Tensor) -> int:
        if bias.dtype is not torch.bfloat16 or bias.shape != (self.out_features,):
            raise ValueError(
                f"bias: expected bfloat16 [{self.out_features}], "
                f"got {bias.dtype} {list(bias.shape)}"
            )
        if bias.stride(0) != 1:
            raise ValueError("bias: expected its elements side by side")
        return bias.data_ptr()


class Bf16Weight(KernelWeight):
    """A bf16 weight as it is."""

    weight_format = "bf16"
    sources = (torch.bfloat16,)
    keeps_rows = True

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows `ids` (int64 `[T]`), gathered from the panels: bf16 `[T, K]`, exact."""
        ids = ids.contiguous()
        rows = torch.empty((len(ids), self.in_features), dtype=torch.bfloat16)
        shape = (self.out_features, self.in_features)
        if _gather()(self.address, *shape, ids.data_ptr(), len(ids), rows.data_ptr()) != 0:
            raise IndexError(f"ids: rows are 0 to {self.out_features - 1}")
        return rows


class Int8Weight(KernelWeight):
    """A weight rounded to int8 by output channel; activations are rounded to int8 by row."""

    weight_format = "int8"


class Int4Weight(KernelWeight):
    """A weight rounded to int4 by groups of 32 inputs; activations to int8 by the same groups."""

    weight_format = "int4"


FORMATS: dict[Quantization | None, type[KernelWeight]] = {
    None: Bf16Weight,
    "int8": Int8Weight,
    "int4": Int4Weight,
}


def supports_pack_weight(weight: torch.Tensor, quantization: Quantization | None = None) -> Support:
    """Whether the kernels take `weight`: bf16 `[N, K]` on the CPU."""
    if weight.device.type != "cpu" or weight.dim() != 2:
        return Support.no("the weight is not a matrix on the CPU")
    if weight.dtype is not torch.bfloat16:
        return Support.no(f"the kernels multiply bfloat16, not {weight.dtype}")
    packing = FORMATS.get(quantization)
    if packing is None:
        return Support.no(f"no kernel here multiplies {quantization} weights")
    if weight.shape[1] > packing.most_inputs:
        return Support.no(f"the kernels sum at most {packing.most_inputs} inputs")
    try:
        kernels(packing.weight_format)
    except (OSError, AttributeError) as exc:
        return Support.no(f"the kernel library cannot be used: {exc}")
    return SUPPORTED


def pack_weight(weight: torch.Tensor, quantization: Quantization | None = None) -> PackedWeight:
    """Pack a bf16 `weight` `[N, K]`, rounded if asked for; it is not needed any more afterwards."""
    return FORMATS[quantization](weight)
