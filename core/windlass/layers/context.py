"""What a forward pass needs besides tokens: made once per step by the model runner."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from windlass.backend import Attention, KVPool


@dataclass(slots=True)
class ForwardContext:
    """The step's attention: planned once, used by every layer.

    `slot_mapping` is `[T]` in the pool layout's slot dtype, -1 for padding.
    """

    attention: Attention
    pool: KVPool
    plan: object
    slot_mapping: torch.Tensor
