"""Shapes that are compiled: sizes are rounded up to a few, so that steps share programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

SMALLEST = 8
"""The smallest bucket but one."""


def bucket(count: int, smallest: int = SMALLEST) -> int:
    """1, or the least power of two that is at least `count` and `smallest`."""
    if count <= 1:
        return 1
    return max(smallest, 1 << (count - 1).bit_length())


def padded(
    values: npt.ArrayLike, size: int, fill: int | float, dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """`values` `[n, ...]` as an array `[size, ...]`; `fill` stands behind them."""
    array = np.asarray(values, dtype=dtype)
    out = np.full((size, *array.shape[1:]), fill, dtype=dtype)
    out[: len(array)] = array
    return out
