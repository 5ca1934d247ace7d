"""The reference of sparse feed-forward layers, beside transformers' own."""

from __future__ import annotations

import pytest
import torch
from transformers import MixtralConfig, Qwen3MoeConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from windlass.backend import ExpertWeights, Linear, OpRegistry
from windlass.errors import UnsupportedError
from windlass.kernels import REFERENCES, DenseExperts, DenseWeight
from windlass.kernels.experts import pack_experts, route_experts
from windlass.layers.sparse_moe import SparseMoE
from windlass.testing.recorded_graph import NoHostReads

HIDDEN, INTERMEDIATE, EXPERTS = 24, 40, 6
MIXTRAL = MixtralSparseMoeBlock(
    MixtralConfig(hidden_size=HIDDEN, intermediate_size=INTERMEDIATE, num_local_experts=EXPERTS)
)
QWEN3 = [
    Qwen3MoeSparseMoeBlock(
        Qwen3MoeConfig(
            hidden_size=HIDDEN,
            moe_intermediate_size=INTERMEDIATE,
            num_experts=EXPERTS,
            num_experts_per_tok=4,
            norm_topk_prob=renormalize,
        )
    )
    for renormalize in (False, True)
]


@pytest.mark.parametrize("block", [MIXTRAL, *QWEN3])
@pytest.mark.parametrize("tokens", [1, 30])
def test_a_layer_gives_what_transformers_gives(block: torch.nn.Module, tokens: int) -> None:
    torch.manual_seed(tokens)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    gate, experts = block.gate, block.experts
    weights = ExpertWeights(
        router=Linear(DenseWeight(gate.weight)),
        experts=DenseExperts(experts.gate_up_proj, experts.down_proj),
        top_k=gate.top_k,
        renormalize=getattr(gate, "norm_topk_prob", True),
    )
    x = torch.randn(tokens, HIDDEN)
    with torch.inference_mode():
        found = SparseMoE(weights, OpRegistry(REFERENCES))(x)
        torch.testing.assert_close(found, block(x[None])[0])


def test_a_devices_way_waits_for_nothing_and_gives_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    experts = DenseExperts(
        torch.randn(EXPERTS, 2 * INTERMEDIATE, HIDDEN, generator=generator),
        torch.randn(EXPERTS, HIDDEN, INTERMEDIATE, generator=generator),
    )
    x = torch.randn(9, HIDDEN, generator=generator)
    with NoHostReads():
        weights, ids = route_experts(torch.randn(9, EXPERTS, generator=generator), 3, True)
        found = experts.sum_over_all(x, weights, ids)
    torch.testing.assert_close(found, experts.apply(x, weights, ids))


def test_an_expert_that_was_not_chosen_does_no_harm() -> None:
    experts = DenseExperts(torch.ones(2, 4, 3), torch.ones(2, 3, 2))
    experts.gate_up[1] = torch.nan
    weights, ids = torch.ones(5, 1), torch.zeros(5, 1, dtype=torch.int32)
    for result in (
        experts.apply(torch.ones(5, 3), weights, ids),
        experts.sum_over_all(torch.ones(5, 3), weights, ids),
    ):
        assert result.isfinite().all()


def test_rounded_experts_are_refused_by_the_name_of_the_field() -> None:
    with pytest.raises(UnsupportedError, match=r"quantization 'int8' .* models with experts"):
        pack_experts(torch.ones(2, 4, 3), torch.ones(2, 3, 2), "int8")
