"""The plugin's op providers: which ops, for which chips; and the ops on a GPU."""

from __future__ import annotations

import os

import pytest
import torch

from windlass.backend import OpRegistry
from windlass.kernels import REFERENCES
from windlass_cuda.plugin import windlass_op_providers

pytest.importorskip("triton")

from windlass.backend.triton.ops import TritonOps
from windlass_cuda import ops
from windlass_cuda.tuning import CudaTuning

PROVIDERS = windlass_op_providers("cuda", "sm_90")
on_gpu = pytest.mark.skipif(os.environ["TRITON_INTERPRET"] == "1", reason="needs a GPU")


def test_every_provider_is_a_method_of_the_gpus_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    own = TritonOps(CudaTuning("sm_90", 132))
    monkeypatch.setitem(vars(ops), "OPS", own)
    registry = OpRegistry(REFERENCES, PROVIDERS, arch="sm_90")
    assert registry.rms_norm == own.rms_norm
    assert {op.name for op in registry} >= {provider.op for provider in PROVIDERS}
    assert all(not candidate.rejected for op in registry for candidate in op.candidates)


def test_other_backends_and_old_chips_get_none() -> None:
    assert windlass_op_providers("cpu", "") == ()
    assert windlass_op_providers("cuda", "sm_75") == ()
    assert windlass_op_providers("cuda", "")  # a MIG instance


def test_only_newer_chips_overlap_kernels() -> None:
    assert CudaTuning("sm_80", 108).sample_config().options == ()
    assert CudaTuning("sm_90", 132).sample_config().options == (("launch_pdl", True),)


@on_gpu
@pytest.mark.parametrize("name", ["rms_norm", "silu_mul"])
def test_a_graph_replays_what_was_captured(name: str) -> None:
    x = torch.randn(4, 2048, device="cuda", dtype=torch.bfloat16)
    arguments = (torch.ones(2048, device="cuda", dtype=x.dtype), 1e-6) if "norm" in name else ()
    function = getattr(ops.OPS, name)
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
    tokens, expected = ops.OPS.sample(logits, *arguments), REFERENCES["sample"](logits, *arguments)
    # A random number or top_p may fall on a boundary, to float32 precision.
    assert (tokens == expected).sum() >= rows - 2
