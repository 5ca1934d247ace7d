"""The plugin's op providers: which ops, for which chips, and that the functions fit the ops."""

from __future__ import annotations

import inspect
import os

import pytest
import torch

from windlass.backend import OpRegistry
from windlass.kernels import REFERENCES
from windlass_cuda.plugin import windlass_op_providers

pytest.importorskip("triton")

from windlass_cuda import ops, row_tuning

PROVIDERS = windlass_op_providers("cuda", "sm_90")
NAMES = sorted(
    provider.op for provider in PROVIDERS if provider.target.startswith("windlass_cuda.ops")
)
on_gpu = pytest.mark.skipif(os.environ["TRITON_INTERPRET"] == "1", reason="needs a GPU")


@pytest.mark.parametrize("name", NAMES)
def test_signatures_are_the_references(name: str) -> None:
    ours = inspect.signature(getattr(ops, name))
    theirs = inspect.signature(REFERENCES[name])
    assert list(ours.parameters) == list(theirs.parameters)


def test_ops_are_called_without_a_choice() -> None:
    registry = OpRegistry(REFERENCES, PROVIDERS, arch="sm_90")
    for name in NAMES:
        assert getattr(registry, name) is getattr(ops, name)


def test_other_backends_and_old_chips_get_none() -> None:
    assert windlass_op_providers("cpu", "") == ()
    assert windlass_op_providers("cuda", "sm_75") == ()
    assert windlass_op_providers("cuda", "")  # a MIG instance


@pytest.mark.parametrize("size", [64, 128, 1024, 5120, 16384])
def test_wide_rows_get_more_warps(size: int) -> None:
    config = row_tuning.norm_config("sm_90", size)
    assert config.num_warps == min(max(size // 256, 1), 16) or size == 5120
    assert config is row_tuning.norm_config("sm_90", size)


@pytest.mark.parametrize("dim", [64, 96, 128, 256])
def test_a_tile_of_heads_fills_its_warps(dim: int) -> None:
    few, many = (row_tuning.head_config("sm_90", dim, tokens) for tokens in (1, 8192))
    assert few.num_warps < many.num_warps
    assert few.heads * dim <= 512 * few.num_warps


def test_only_newer_chips_overlap_kernels() -> None:
    assert row_tuning.sample_config("sm_80").options == ()
    assert row_tuning.sample_config("sm_90").options == (("launch_pdl", True),)


@on_gpu
@pytest.mark.parametrize("name", ["rms_norm", "silu_mul"])
def test_a_graph_replays_what_was_captured(name: str) -> None:
    x = torch.randn(4, 2048, device="cuda", dtype=torch.bfloat16)
    arguments = (torch.ones(2048, device="cuda", dtype=x.dtype), 1e-6) if "norm" in name else ()
    function = getattr(ops, name)
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
    tokens, expected = ops.sample(logits, *arguments), REFERENCES["sample"](logits, *arguments)
    # A random number or top_p may fall on a boundary, to float32 precision.
    assert (tokens == expected).sum() >= rows - 2
