"""The rows of a packed weight: what a tied embedding looks up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from windlass.backend import BackendConfig
from windlass.config import ModelConfig
from windlass.loader import load_decoder
from windlass_cpu.backend import CpuBackend
from windlass_cpu.built import library_path
from windlass_cpu.linear import Bf16Weight, Int8Weight
from windlass_cpu.plugin import SPEC
from windlass_cpu.providers import OP_PROVIDERS

pytestmark = pytest.mark.skipif(library_path() is None, reason="the kernel library is not built")


@settings(max_examples=40, deadline=None)
@given(
    outputs=st.integers(1, 150),
    inputs=st.one_of(st.integers(1, 70), st.sampled_from([256, 1023, 2048])),
    count=st.one_of(st.integers(0, 8), st.just(300)),
    seed=st.integers(0, 2**31),
)
def test_rows_come_back_bit_for_bit(outputs: int, inputs: int, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(2**15), 2**15, (outputs, inputs), generator=generator)
    weight = bits.to(torch.int16).view(torch.bfloat16)
    ids = torch.randint(outputs, (count,), generator=generator)
    rows = Bf16Weight(weight).rows(ids)
    assert torch.equal(rows.view(torch.int16), weight[ids].view(torch.int16))


def test_ids_that_do_not_lie_side_by_side_are_read_as_what_they_show() -> None:
    weight = torch.arange(40.0).bfloat16().view(10, 4)
    assert torch.equal(Bf16Weight(weight).rows(torch.arange(10)[::3]), weight[::3])


@pytest.mark.parametrize("row", [-1, 10])
def test_a_row_that_is_not_there_is_refused(row: int) -> None:
    packed = Bf16Weight(torch.zeros(10, 4, dtype=torch.bfloat16))
    with pytest.raises(IndexError, match="rows are 0 to 9"):
        packed.rows(torch.tensor([0, row]))


def test_a_rounded_weight_keeps_no_rows() -> None:
    packed = Int8Weight(torch.zeros(10, 4, dtype=torch.bfloat16))
    assert not packed.keeps_rows
    with pytest.raises(NotImplementedError, match="Int8Weight keeps no rows"):
        packed.rows(torch.tensor([0]))


def test_a_tied_embedding_is_held_once(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    stored = {name: w for name, w in model.state_dict().items() if name != "lm_head.weight"}
    save_file(stored, tmp_path / "model.safetensors")
    backend = CpuBackend(SPEC, BackendConfig(), op_providers=OP_PROVIDERS)
    loaded = load_decoder(ModelConfig(model=str(tmp_path), dtype="bfloat16"), backend)
    assert loaded.decoder.embedding is loaded.decoder.lm_head.weight
    ids = torch.tensor([5, 95, 0])
    expected = stored["model.embed_tokens.weight"][ids]
    assert torch.equal(loaded.decoder.embedding.rows(ids), expected)
    assert loaded.weight_bytes == 2 * loaded.num_parameters
