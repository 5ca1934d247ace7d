"""The tiles of dense linear layers that were measured, by architecture.

`benchmarks/gpu/linear.py` measures others and prints entries for these tables; shapes that are not
here follow the rules of `windlass.backend.triton.linear_tiles`.
"""

from __future__ import annotations

from collections.abc import Mapping

from windlass.backend.triton.linear_tiles import Tiles

MEASURED: Mapping[str, Mapping[tuple[int, int, int], Tiles | None]] = {
    "sm_90": {
        (6144, 4096, 4): Tiles(4, 2, 4096),
        (4096, 4096, 4): Tiles(16, 32, 128, 4, 4, 5),
        (4096, 4096, 16): Tiles(16, 32, 128, 4, 4, 5),
        (28672, 4096, 4): Tiles(4, 2, 4096),
        (28672, 4096, 16): Tiles(16, 64, 128, 1, 4, 4),
        (28672, 4096, 64): Tiles(64, 128, 64, 1, 4, 5),
        (4096, 14336, 1): Tiles(1, 2, 4096),
        (4096, 14336, 4): Tiles(16, 32, 128, 4, 4, 5),
        (128256, 4096, 4): Tiles(4, 2, 4096),
        (128256, 4096, 16): Tiles(16, 64, 128, 1, 4, 4),
        (128256, 4096, 64): Tiles(64, 128, 64, 1, 4, 5),
        (24576, 4096, 4): Tiles(4, 2, 4096),
        (24576, 4096, 16): Tiles(16, 64, 128, 1, 4, 4),
        (4096, 12288, 4): Tiles(16, 32, 128, 4, 4, 5),
        (4096, 12288, 16): Tiles(16, 32, 128, 4, 4, 5),
        (151936, 4096, 4): Tiles(4, 2, 4096),
        (151936, 4096, 16): Tiles(16, 64, 128, 1, 4, 4),
        (151936, 4096, 64): Tiles(64, 128, 64, 1, 4, 5),
        (4096, 1024, 1): Tiles(1, 4, 1024),
        (1024, 2048, 1): Tiles(1, 2, 2048),
        (1024, 2048, 4): Tiles(4, 4, 2048),
        (6144, 1024, 1): Tiles(1, 4, 1024),
        (1024, 3072, 4): Tiles(4, 1, 4096),
        (1024, 3072, 16): Tiles(16, 32, 128, 8, 4, 5),
        (151936, 1024, 4): Tiles(16, 32, 128, 1, 4, 5),
        (151936, 1024, 16): Tiles(16, 64, 128, 1, 4, 4),
        # Between rows that were measured, where both take the same tiles.
        (4096, 4096, 8): Tiles(16, 32, 128, 4, 4, 5),
        (4096, 12288, 8): Tiles(16, 32, 128, 4, 4, 5),
        (28672, 4096, 8): Tiles(16, 64, 128, 1, 4, 4),
        (24576, 4096, 8): Tiles(16, 64, 128, 1, 4, 4),
        (128256, 4096, 8): Tiles(16, 64, 128, 1, 4, 4),
        (151936, 4096, 8): Tiles(16, 64, 128, 1, 4, 4),
        (1024, 3072, 8): Tiles(16, 32, 128, 8, 4, 5),
        (151936, 1024, 8): Tiles(16, 64, 128, 1, 4, 4),
    },
}
"""By outputs, inputs and rows rounded up to a power of two; None: the library."""

MEASURED_FUSED: Mapping[str, Mapping[tuple[int, int, int, bool], Tiles | None]] = {}
"""The same for a product with the norm before it, by whether it is gated; its outputs are those
after the gate. None: not worth fusing."""
