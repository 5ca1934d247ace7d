"""A GGUF file from a safetensors checkpoint of a Qwen3 or Llama decoder with tied embeddings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy
from safetensors import deserialize

FILE_TYPES = {"bf16": gguf.LlamaFileType.MOSTLY_BF16, "int8": gguf.LlamaFileType.MOSTLY_Q8_0}
FORMATS = {"bf16": gguf.GGMLQuantizationType.BF16, "int8": gguf.GGMLQuantizationType.Q8_0}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
}


def write_gguf(checkpoint: Path, path: Path, precision: str) -> None:
    """Write all tensors; norms stay fp32. The file has no tokenizer: only token ids go in."""
    config = json.loads((checkpoint / "config.json").read_text())
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, config["model_type"])
    _write_settings(writer, config, precision)
    for name, tensor in _tensors(checkpoint):
        values = _rotated(name, tensor, config)
        if values.ndim == 1:
            writer.add_tensor(_gguf_name(name), values)
        else:
            kind = FORMATS[precision]
            writer.add_tensor(_gguf_name(name), gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(path)


def _write_settings(writer: gguf.GGUFWriter, config: dict[str, Any], precision: str) -> None:
    rope = config.get("rope_parameters") or config
    writer.add_file_type(FILE_TYPES[precision])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")


def _tensors(checkpoint: Path) -> Iterator[tuple[str, numpy.ndarray]]:
    """Name and fp32 values; numpy has no bf16, whose bits are the upper half of an fp32."""
    for file in sorted(checkpoint.glob("*.safetensors")):
        for name, tensor in deserialize(file.read_bytes()):
            if tensor["dtype"] != "BF16":
                raise ValueError(f"{name} in {file} is {tensor['dtype']}, not BF16")
            bits = numpy.frombuffer(tensor["data"], dtype=numpy.uint16).astype(numpy.uint32) << 16
            yield name, bits.view(numpy.float32).reshape(tensor["shape"])


def _gguf_name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def _rotated(name: str, tensor: numpy.ndarray, config: dict[str, Any]) -> numpy.ndarray:
    """Reorder the rows of Llama's query and key: llama.cpp rotates neighbours, not halves."""
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    key = heads.get(name.split(".")[-2])
    if key is None or config["model_type"] != "llama":
        return tensor
    halves = tensor.reshape(config[key], 2, config["head_dim"] // 2, -1)
    return numpy.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensor.shape))
