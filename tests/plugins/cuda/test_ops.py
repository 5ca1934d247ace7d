"""Which chips run the ops and how they are launched; and the ops on a GPU."""

from __future__ import annotations

import os

import pytest
import torch

from windlass.kernels import REFERENCES

pytest.importorskip("triton")

from windlass.backend.triton.ops import TritonOps
from windlass_cuda.device import tuning_of
from windlass_cuda.tuning import CudaTuning

on_gpu = pytest.mark.skipif(os.environ["TRITON_INTERPRET"] == "1", reason="needs a GPU")


def test_old_chips_leave_the_ops_to_torch() -> None:
    assert not CudaTuning("sm_75", 40).has_ops
    assert CudaTuning("sm_80", 108).has_ops


def test_only_newer_chips_overlap_kernels() -> None:
    assert CudaTuning("sm_80", 108).sample_config().options == ()
    assert CudaTuning("sm_90", 132).sample_config().options == (("launch_pdl", True),)


@on_gpu
@pytest.mark.parametrize("name", ["rms_norm", "silu_mul"])
def test_a_graph_replays_what_was_captured(name: str) -> None:
    x = torch.randn(4, 2048, device="cuda", dtype=torch.bfloat16)
    arguments = (torch.ones(2048, device="cuda", dtype=x.dtype), 1e-6) if "norm" in name else ()
    function = getattr(TritonOps(tuning_of()), name)
    function(x, *arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = function(x, *arguments)
    x.copy_(torch.randn_like(x))
    out.fill_(torch.nan)
    graph.replay()
    assert torch.equal(out, function(x, *arguments))


@on_gpu
@pytest.mark.parametrize("vocab_size", [32000, 151936])
@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_real_vocabularies_give_the_references_tokens(vocab_size: int, spread: float) -> None:
    rows = 64
    generator = torch.Generator("cuda").manual_seed(vocab_size)
    logits = torch.randn(rows, vocab_size, generator=generator, device="cuda") * spread
    index = torch.arange(rows, device="cuda")
    arguments = (
        (index % 4).float() * 0.5,
        (index % 5 * 40).int(),
        torch.where(index % 3 == 0, 0.9, 1.0),
        torch.where(index % 7 == 0, 0.05, 0.0),
        index * 7919,
        index,
    )
    tokens = TritonOps(tuning_of()).sample(logits, *arguments)
    expected = REFERENCES["sample"](logits, *arguments)
    # A random number or top_p may fall on a boundary, to float32 precision.
    assert (tokens == expected).sum() >= rows - 2
