"""How near a result must be to the float32 reference, and tensors that show a stray write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from windlass.testing.conformance.cases import expect

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1.6e-2, torch.float16: 4e-3}
"""Absolute and relative, of numbers about 1: two roundings of the dtype, and sums in any order."""


def short(dtype: torch.dtype) -> str:
    """`torch.bfloat16` as "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def close(
    found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype, *, factor: float = 1.0
) -> None:
    """Fail unless `found` is `expected` within the tolerance of `dtype` times `factor`."""
    expect(
        found.shape == expected.shape, f"shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    )
    one, other = found.detach().cpu().double(), expected.detach().cpu().double()
    allowed = factor * TOLERANCE[dtype] * (1 + other.abs())
    # Infinities of one sign differ by NaN, and are equal.
    wrong = ~((one == other) | ((one - other).abs() <= allowed) | (one.isnan() & other.isnan()))
    if not bool(wrong.any()):
        return
    place = wrong.nonzero()[0].tolist()
    at = tuple(place)
    raise AssertionError(
        f"{int(wrong.sum())} of {wrong.numel()} numbers are off ({short(dtype)}); the first at "
        f"{place}: {one[at].item():.6g}, not {other[at].item():.6g}"
    )


def equal(found: torch.Tensor, expected: torch.Tensor, *, may_differ: int = 0) -> None:
    """Fail unless the tensors hold the same numbers, in all places but `may_differ`."""
    expect(
        found.shape == expected.shape, f"shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    )
    one, other = found.cpu(), expected.cpu()
    wrong = one.to(other.dtype) != other
    if int(wrong.sum()) > may_differ:
        place = wrong.nonzero()[0].tolist()
        at = tuple(place)
        raise AssertionError(
            f"{int(wrong.sum())} of {wrong.numel()} differ; the first at {place}: "
            f"{one[at].item()}, not {other[at].item()}"
        )


@dataclass(frozen=True)
class Guarded:
    """A tensor inside a larger one of NaN, with a copy of the whole."""

    inside: torch.Tensor
    whole: torch.Tensor
    before: torch.Tensor

    def expect_unchanged(self, name: str) -> None:
        """Fail when anything was written into the tensor or around it."""
        old, new = (x.contiguous().view(torch.uint8) for x in (self.before, self.whole))
        expect(torch.equal(old, new), f"{name}, or the memory beside it, was written")


def guarded(values: torch.Tensor, *, strided: bool = False) -> Guarded:
    """`values` `[T, ...]` with a row of NaN before and after, and columns beside when strided.

    The last axis stays contiguous, as it is of a view that splits a wider tensor.
    """
    rows, width = len(values), values.shape[-1]
    columns = 2 * width + 8 if strided else width
    fill = torch.nan if values.is_floating_point() else 0
    whole = values.new_full((rows + 2, *values.shape[1:-1], columns), fill)
    inside = whole[1:-1, ..., 8 : 8 + width] if strided else whole[1:-1]
    inside.copy_(values)
    return Guarded(inside, whole, whole.clone())


def poison(like: Sequence[torch.Tensor]) -> None:
    """Leave NaN in the free memory that outputs of these shapes will most likely take.

    A number that an op forgets to write then shows, where the allocator hands memory out again.
    """
    held = [
        torch.full_like(tensor, torch.nan)
        for tensor in like
        if tensor.is_floating_point()
        for _ in range(2)
    ]
    del held
