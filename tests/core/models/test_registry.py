"""Which configurations the decoder takes, and what it says about those it does not."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import (
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from windlass.errors import ModelError
from windlass.models.registry import decoder_config

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_llama_3_1_8b_is_described_as_published() -> None:
    hf_config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_key_value_heads=8,
        max_position_embeddings=131072,
        rope_parameters=LLAMA3_ROPE,
    )
    config = decoder_config("LlamaForCausalLM", hf_config)
    assert (config.num_layers, config.num_heads, config.head_dim) == (32, 32, 128)
    assert config.max_position == 131072
    assert config.windows == (0,) * 32
    assert config.num_parameters == 8_030_261_248


def test_qwen3_0_6b_is_described_as_published() -> None:
    hf_config = Qwen3Config(
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    )
    config = decoder_config("Qwen3ForCausalLM", hf_config)
    assert config.qk_norm
    assert not config.qkv_bias
    assert config.q_size == 2048
    assert config.num_parameters == 596_049_920


def test_qwen2_0_5b_is_described_as_published() -> None:
    hf_config = Qwen2Config(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    config = decoder_config("Qwen2ForCausalLM", hf_config)
    assert config.qkv_bias
    assert not config.o_bias
    assert config.windows == (0,) * 24
    assert config.num_parameters == 494_032_768


def test_qwen3_30b_a3b_is_described_as_published() -> None:
    hf_config = Qwen3MoeConfig(
        num_hidden_layers=48, head_dim=128, norm_topk_prob=True, max_position_embeddings=40960
    )
    config = decoder_config("Qwen3MoeForCausalLM", hf_config)
    assert config.qk_norm
    assert config.experts is not None
    assert (config.experts.num_experts, config.experts.top_k) == (128, 8)
    assert config.experts.renormalize
    assert all(config.experts.layers)
    assert config.num_parameters == 30_532_122_624


def test_mixtral_8x7b_is_described_as_published() -> None:
    config = decoder_config("MixtralForCausalLM", MixtralConfig())
    assert config.experts is not None
    assert (config.experts.num_experts, config.experts.top_k) == (8, 2)
    assert config.experts.renormalize
    assert config.windows == (0,) * 32
    assert config.num_parameters == 46_702_792_704


def test_some_layers_of_qwen3_moe_are_dense() -> None:
    hf_config = Qwen3MoeConfig(
        num_hidden_layers=6, decoder_sparse_step=2, mlp_only_layers=[1], use_sliding_window=True
    )
    config = decoder_config("Qwen3MoeForCausalLM", hf_config)
    assert config.windows == (4096,) * 6
    assert [config.experts_of(layer) is not None for layer in range(6)] == [
        False, False, False, True, False, True,
    ]  # fmt: skip
    none = Qwen3MoeConfig(num_hidden_layers=2, mlp_only_layers=[0, 1])
    assert decoder_config("Qwen3MoeForCausalLM", none).experts is None


def test_more_experts_for_a_token_than_there_are_is_refused() -> None:
    for name, hf_config in (
        ("Qwen3MoeForCausalLM", Qwen3MoeConfig(num_experts=4, num_experts_per_tok=5)),
        ("MixtralForCausalLM", MixtralConfig(num_local_experts=4, num_experts_per_tok=5)),
    ):
        with pytest.raises(ModelError, match="num_experts_per_tok is 5; there are 4 experts"):
            decoder_config(name, hf_config)


def test_mistral_slides_one_window_over_every_layer() -> None:
    config = decoder_config("MistralForCausalLM", MistralConfig(sliding_window=4096))
    assert config.windows == (4096,) * 32


def test_qwen_slides_its_window_from_max_window_layers_on() -> None:
    hf_config = Qwen2Config(
        num_hidden_layers=4, use_sliding_window=True, sliding_window=512, max_window_layers=3
    )
    assert decoder_config("Qwen2ForCausalLM", hf_config).windows == (0, 0, 0, 512)


def test_an_old_configuration_with_rope_scaling_reads_as_the_new_one() -> None:
    scaling = {k: v for k, v in LLAMA3_ROPE.items() if k != "rope_theta"}
    old = LlamaConfig.from_dict(
        {"model_type": "llama", "rope_theta": 500000.0, "rope_scaling": scaling}
    )
    new = LlamaConfig(rope_parameters=LLAMA3_ROPE)
    found = decoder_config("LlamaForCausalLM", old).rope
    assert found == decoder_config("LlamaForCausalLM", new).rope


@pytest.mark.parametrize(
    ("rope", "limit"),
    [
        ({"rope_type": "default"}, 4096),
        (LLAMA3_ROPE, 4096),
        ({"rope_type": "linear", "factor": 2.0}, 8192),
        ({"rope_type": "yarn", "factor": 4.0}, 16384),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
            4096,
        ),
    ],
)
def test_scaled_rotary_embeddings_lengthen_the_context(rope: dict[str, Any], limit: int) -> None:
    rope = {"rope_theta": 10000.0} | rope
    hf_config = LlamaConfig(max_position_embeddings=4096, rope_parameters=rope)
    assert decoder_config("LlamaForCausalLM", hf_config).max_position == limit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, r"hidden_act is 'gelu'; only silu"),
        ({"num_key_value_heads": 5}, r"num_key_value_heads is 5, which does not divide .* 32"),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            r"quantization_config \(gptq\)",
        ),
        (
            {
                "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
            },
            r"rope_parameters\.rope_type is 'dynamic'; supported are: default, linear",
        ),
        (
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "factor": 2.0,
                    "short_factor": [1.0] * 64,
                    "long_factor": [1.0] * 64,
                    "original_max_position_embeddings": 1024,
                }
            },
            r"rope_parameters\.rope_type is 'longrope'",
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            r"partial_rotary_factor is 0\.5; only 1\.0",
        ),
    ],
)
def test_an_unsupported_field_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        decoder_config("LlamaForCausalLM", LlamaConfig(**changes))


def test_rotary_parameters_per_layer_type_are_refused() -> None:
    hf_config = Qwen2Config(
        num_hidden_layers=2,
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 1e4}},
    )
    with pytest.raises(ModelError, match="rope_parameters differs by layer type"):
        decoder_config("Qwen2ForCausalLM", hf_config)


def test_an_unknown_layer_type_is_named() -> None:
    hf_config = Qwen3Config(num_hidden_layers=2, layer_types=["full_attention", "linear_attention"])
    with pytest.raises(ModelError, match=r"layer_types .* the unknown linear_attention"):
        decoder_config("Qwen3ForCausalLM", hf_config)


def test_an_unsupported_architecture_is_named_with_the_supported_ones() -> None:
    with pytest.raises(ModelError, match=r"'GPT2LMHeadModel' is not supported.*Qwen3ForCausalLM"):
        decoder_config("GPT2LMHeadModel", LlamaConfig())


def test_an_architecture_with_a_foreign_model_type_is_refused() -> None:
    with pytest.raises(ModelError, match=r"model_type is 'qwen2'.*goes with 'llama'"):
        decoder_config("LlamaForCausalLM", Qwen2Config())
