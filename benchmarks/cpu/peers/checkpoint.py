"""Checkpoints of seeded random weights in the shapes of the models."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from peers.shapes import SHAPES, Shape

SEED = 0
CLASSES = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}


def make_checkpoint(shape: Shape, folder: Path) -> None:
    """Save the model in bf16, and a tokenizer that nobody will ask for text."""
    torch.manual_seed(SEED)
    config_class, model_class = CLASSES[shape.architecture]
    config = config_class(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        dtype=torch.bfloat16,
    )
    partial = folder.with_suffix(".partial")
    model_class(config).to(torch.bfloat16).save_pretrained(partial)
    vocabulary = {f"<{i}>": i for i in range(shape.vocab)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<0>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<0>", eos_token="<1>", unk_token="<0>"
    )
    tokenizer.save_pretrained(partial)
    partial.rename(folder)


if __name__ == "__main__":
    name, layers, target = sys.argv[1:]
    make_checkpoint(SHAPES[name].with_layers(int(layers)), Path(target))
