"""The table that the op `rope` reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def cos_sin_table(
    inv_freq: Sequence[float],
    attention_scaling: float,
    num_positions: int,
    device: torch.device,
) -> torch.Tensor:
    """Cosines, then sines, of every position times every frequency: float32 `[P, 2F]`."""
    frequencies = torch.tensor(inv_freq, dtype=torch.float32)
    positions = torch.arange(num_positions, dtype=torch.float32)
    angles = torch.outer(positions, frequencies)
    table = torch.cat((angles.cos(), angles.sin()), dim=-1).mul_(attention_scaling)
    return table.to(device)
