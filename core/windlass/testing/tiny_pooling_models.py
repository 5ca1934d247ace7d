"""Small models that embed or score, with random weights and trained tokenizers, in their folders.

Importing this imports transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedConfig, PreTrainedModel

VOCABULARY = 400
TEXTS = (
    "a windlass hauls the same rope whatever drives it",
    "the anchor comes up when the crew turns the drum",
    "wind and water wear the hull of every ship",
    "what lifts an anchor? a windlass lifts an anchor",
)
_BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_ROBERTA_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_CHAT_SPECIALS = ["<|end|>", "<|im_start|>", "<|im_end|>"]
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", {"max_position_embeddings": 128}),
    "xlm_roberta": (
        "XLMRobertaConfig",
        {"max_position_embeddings": 130, "type_vocab_size": 1, "pad_token_id": 1},
    ),
    "modernbert": (
        "ModernBertConfig",
        {
            "max_position_embeddings": 128,
            "local_attention": 16,
            "pad_token_id": 0,
            "cls_token_id": 2,
            "sep_token_id": 3,
            "bos_token_id": 2,
            "eos_token_id": 3,
        },
    ),
    "nomic_bert": ("NomicBertConfig", {"max_position_embeddings": 128}),
    "qwen3": (
        "Qwen3Config",
        {
            "max_position_embeddings": 256,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "eos_token_id": 0,
            "pad_token_id": None,
        },
    ),
    "llama": (
        "LlamaConfig",
        {"max_position_embeddings": 256, "num_key_value_heads": 2, "eos_token_id": 0},
    ),
}
FAMILIES = tuple(_FAMILIES)


def write_tiny_pooling_model(
    family: str, folder: Path, auto_class: str = "AutoModel", **changes: object
) -> PreTrainedModel:
    """Save a model of the family and its tokenizer into `folder`; return it in float32.

    `auto_class` names the class of transformers whose head it gets; `changes` are fields of its
    configuration. The weights are the same every time and large enough to tell texts apart.
    """
    name, fields = _FAMILIES[family]
    config: PreTrainedConfig = getattr(transformers, name)(**{**_SIZES, **fields, **changes})
    generator = torch.Generator().manual_seed(0)
    model: PreTrainedModel = getattr(transformers, auto_class).from_config(config)
    for name, parameter in model.named_parameters():
        mean = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.12 + mean)
    model.save_pretrained(folder)
    _write_tokenizer(family, folder)
    return model.eval()


def write_sentence_transformer(
    folder: Path,
    mode: str = "pooling_mode_mean_tokens",
    *,
    normalize: bool = True,
    max_seq_length: int | None = None,
    prompts: dict[str, str] | None = None,
    **pooling: object,
) -> None:
    """Put beside a model what sentence-transformers writes: modules, pooling, limit, prompts."""
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    modules += [("Normalize", "2_Normalize")] if normalize else []
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(modules)
    ]
    (folder / "1_Pooling").mkdir(exist_ok=True)
    _write_json(folder / "modules.json", listed)
    _write_json(folder / "1_Pooling/config.json", {mode: True, **pooling})
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_seq_length})
    _write_json(folder / "config_sentence_transformers.json", {"prompts": prompts or {}})


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def _write_tokenizer(family: str, folder: Path) -> None:
    if family in ("bert", "modernbert", "nomic_bert"):
        tokenizer, specials = _wordpiece(), _BERT_SPECIALS
    elif family == "xlm_roberta":
        tokenizer, specials = _unigram(), _ROBERTA_SPECIALS
    else:
        tokenizer, specials = _byte_level(), _CHAT_SPECIALS
    tokenizer.save(str(folder / "tokenizer.json"))
    names = ["input_ids", "attention_mask"]
    names += ["token_type_ids"] if family == "bert" else []
    config = {"model_input_names": names, "pad_token": specials[1 if "<s>" in specials else 0]}
    _write_json(folder / "tokenizer_config.json", config)


def _train(tokenizer: Tokenizer, trainer: Callable[..., Any], **options: object) -> Tokenizer:
    corpus: Iterable[str] = TEXTS * 3
    made = trainer(vocab_size=VOCABULARY - 20, show_progress=False, **options)
    tokenizer.train_from_iterator(corpus, made)
    return tokenizer


def _wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    _train(tokenizer, trainers.WordPieceTrainer, special_tokens=_BERT_SPECIALS)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    options = {"special_tokens": _ROBERTA_SPECIALS, "unk_token": "<unk>"}
    _train(tokenizer, trainers.UnigramTrainer, **options)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = {"special_tokens": _CHAT_SPECIALS, "initial_alphabet": alphabet}
    _train(tokenizer, trainers.BpeTrainer, **specials)
    tokenizer.add_tokens(["yes", "no"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|end|>", pair="$A $B <|end|>", special_tokens=[("<|end|>", 0)]
    )
    return tokenizer
