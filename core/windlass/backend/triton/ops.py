"""The ops by Triton kernels, with the signatures of the references.

They run eagerly in every prefill step, so each does no more than look up its launch configuration.
"""

from __future__ import annotations

from functools import cache

import torch

from windlass.backend.capabilities import Support
from windlass.backend.ops import OwnOp
from windlass.backend.triton.experts import GroupedExperts, supports_experts
from windlass.backend.triton.linear import TritonWeight, supports_weight
from windlass.backend.triton.quantized import RoundedWeight, supports_rounding
from windlass.backend.triton.tuning import TritonTuning, remembered_head_config
from windlass.config import Quantization
from windlass.kernels import sampling as reference
from windlass.kernels.experts import PackedExperts
from windlass.kernels.linear import PackedWeight
from windlass.kernels.triton import (
    activation,
    decode_step,
    logprobs,
    norm,
    routing,
    sampling,
    token_mask,
)
from windlass.kernels.triton import penalties as penalty
from windlass.kernels.triton import rope as rotary

NAME = "triton"
"""What the setting `ops` calls these ops."""

_PRIORITY = 100
_TAKE_EVERY_CALL = (
    "rms_norm",
    "add_rms_norm",
    "rope",
    "silu_mul",
    "begin_decode",
    "next_tokens",
    "greedy",
    "sample",
    "penalties",
    "apply_token_mask",
    "token_logprobs",
    "route_experts",
)
"""So no choice is made at each call."""


class TritonOps:
    """Ops for tensors on the chip of `tuning`: each method is one op, or its `supports`."""

    def __init__(self, tuning: TritonTuning) -> None:
        self._tuning = tuning
        self._norm_config = cache(tuning.norm_config)
        self._head_config = remembered_head_config(tuning)
        self._activation_config = tuning.activation_config()
        self._step_config = tuning.step_config()
        self._sample_config = tuning.sample_config()
        self._vocabulary_config = tuning.vocabulary_config()
        self._logprobs_config = tuning.logprobs_config()
        self._route_config = tuning.route_config()

    def own_ops(self) -> list[OwnOp]:
        """All of them for a backend's registry; what rounds weights is "triton_quantized"."""
        return [
            *(
                OwnOp(op=op, name=NAME, function=getattr(self, op), priority=_PRIORITY)
                for op in _TAKE_EVERY_CALL
            ),
            OwnOp(
                op="pack_experts",
                name=NAME,
                function=self.pack_experts,
                supports=self.supports_pack_experts,
                priority=_PRIORITY,
            ),
            OwnOp(
                op="pack_weight",
                name=NAME,
                function=self.pack_weight,
                supports=self.supports_pack_weight,
                priority=_PRIORITY,
            ),
            OwnOp(
                op="pack_weight",
                name=f"{NAME}_quantized",
                function=self.round_weight,
                supports=self.supports_round_weight,
                priority=_PRIORITY,
            ),
        ]

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """`windlass.kernels.reference.rms_norm`."""
        return norm.rms_norm(x, weight, eps, self._norm_config(x.shape[-1]))

    def add_rms_norm(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`windlass.kernels.reference.add_rms_norm`."""
        return norm.add_rms_norm(x, residual, weight, eps, self._norm_config(x.shape[-1]))

    def rope(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        positions: torch.Tensor,
        cos_sin: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`windlass.kernels.reference.rope`."""
        config = self._head_config(query.shape[-1], len(query))
        return rotary.rope(query, key, positions, cos_sin, config)

    def silu_mul(self, x: torch.Tensor) -> torch.Tensor:
        """`windlass.kernels.reference.silu_mul`."""
        return activation.silu_mul(x, self._activation_config)

    def begin_decode(
        self,
        rows: torch.Tensor,
        last_token: torch.Tensor,
        position: torch.Tensor,
        block_table: torch.Tensor,
        num_columns: int,
        block_size: int,
        slot_dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """`windlass.kernels.step.begin_decode`."""
        return decode_step.begin_decode(
            rows,
            last_token,
            position,
            block_table,
            num_columns,
            block_size,
            slot_dtype,
            self._step_config,
        )

    def next_tokens(
        self,
        logits: torch.Tensor,
        rows: torch.Tensor,
        last_token: torch.Tensor,
        position: torch.Tensor,
        temperature: torch.Tensor,
        top_k: torch.Tensor,
        top_p: torch.Tensor,
        min_p: torch.Tensor,
        seed: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`windlass.kernels.step.next_tokens`."""
        return decode_step.next_tokens(
            logits,
            rows,
            last_token,
            position,
            temperature,
            top_k,
            top_p,
            min_p,
            seed,
            self._sample_config,
        )

    def greedy(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`windlass.kernels.sampling.greedy`."""
        return sampling.greedy(logits, self._sample_config)

    def sample(
        self,
        logits: torch.Tensor,
        temperature: torch.Tensor,
        top_k: torch.Tensor | None,
        top_p: torch.Tensor | None,
        min_p: torch.Tensor | None,
        seed: torch.Tensor,
        position: torch.Tensor,
    ) -> torch.Tensor:
        """`windlass.kernels.sampling.sample`."""
        config = self._sample_config
        return sampling.sample(logits, temperature, top_k, top_p, min_p, seed, position, config)

    def penalties(
        self,
        logits: torch.Tensor,
        prompt_mask: torch.Tensor,
        output_counts: torch.Tensor,
        repetition: torch.Tensor,
        frequency: torch.Tensor,
        presence: torch.Tensor,
    ) -> torch.Tensor:
        """`windlass.kernels.sampling.penalties`."""
        return penalty.penalties(
            logits,
            prompt_mask,
            output_counts,
            repetition,
            frequency,
            presence,
            self._vocabulary_config,
        )

    def apply_token_mask(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`windlass.kernels.sampling.apply_token_mask`."""
        return token_mask.apply_token_mask(logits, mask, self._vocabulary_config)

    def token_logprobs(
        self, logits: torch.Tensor, tokens: torch.Tensor, num_top: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """`windlass.kernels.sampling.token_logprobs`."""
        if num_top > logprobs.MAX_TOP:
            return reference.token_logprobs(logits, tokens, num_top)
        return logprobs.token_logprobs(logits, tokens, num_top, self._logprobs_config)

    def route_experts(
        self, router_logits: torch.Tensor, top_k: int, renormalize: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`windlass.kernels.experts.route_experts`."""
        return routing.route(router_logits, top_k, renormalize, self._route_config)

    def supports_pack_experts(
        self,
        gate_up: torch.Tensor,
        down: torch.Tensor,
        quantization: Quantization | None = None,
    ) -> Support:
        """Whether the kernels take the experts: unrounded, on the chip."""
        del down
        if quantization is not None:
            return Support.no("the kernels round no experts")
        return supports_experts(gate_up, self._tuning)

    def pack_experts(
        self,
        gate_up: torch.Tensor,
        down: torch.Tensor,
        quantization: Quantization | None = None,
    ) -> PackedExperts:
        """The op `pack_experts`, for unrounded experts."""
        del quantization
        return GroupedExperts(gate_up, down, self._tuning)

    def supports_pack_weight(
        self, weight: torch.Tensor, quantization: Quantization | None = None
    ) -> Support:
        """Whether `weight` stays as it is, on the chip, in a dtype of the kernels."""
        if quantization is not None:
            return Support.no("a weight that is to be rounded")
        return supports_weight(weight, self._tuning)

    def pack_weight(
        self, weight: torch.Tensor, quantization: Quantization | None = None
    ) -> PackedWeight:
        """`weight` `[N, K]` as it is, for the kernels."""
        del quantization
        return TritonWeight(weight, self._tuning)

    def supports_round_weight(
        self, weight: torch.Tensor, quantization: Quantization | None = None
    ) -> Support:
        """Whether the kernels take `weight` `[N, K]` rounded, and the chip the format."""
        if quantization is None:
            return Support.no("a weight that is not rounded")
        return supports_rounding(weight, quantization, self._tuning)

    def round_weight(self, weight: torch.Tensor, quantization: Quantization) -> PackedWeight:
        """The op `pack_weight` for a weight `[N, K]` that is rounded, and not needed afterwards."""
        return RoundedWeight(weight, quantization, self._tuning)
