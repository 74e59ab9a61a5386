"""Writes and reads `jan-tiny.gguf`: the weights in Q8_0, the tokenizer and the chat template."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, TokenType
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.vocabulary import CONTROL, END, END_OF_TEXT, MARKS, TEMPLATE

Weights = dict[str, NDArray[np.float32]]

_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NAMES = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def to_gguf_name(name: str) -> str:
    """Turn a weight's name, Hugging Face's without `model.`, into llama.cpp's."""
    if name in _NAMES:
        return _NAMES[name]
    _, layer, rest = name.split(".", 2)
    return f"blk.{layer}.{_LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def to_hf_name(name: str) -> str:
    """The other way."""
    for ours, theirs in _NAMES.items():
        if theirs == name:
            return ours
    _, layer, rest = name.split(".", 2)
    ours = {theirs: ours for ours, theirs in _LAYER_NAMES.items()}[rest.removesuffix(".weight")]
    return f"layers.{layer}.{ours}.weight"


def interleave(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Order a head's rows as llama.cpp rotates them: neighbours instead of halves."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def deinterleave(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """The other way."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def write(path: Path, weights: Weights, config: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Write the file; `config` is Hugging Face's config.json."""
    writer = GGUFWriter(path, "llama")
    writer.add_name("jan-tiny")
    writer.add_description("A tiny demonstration model of Jan Server")
    writer.add_license("apache-2.0")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _write_tokenizer(writer, tokenizer)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, weight in weights.items():
        kind = name.split(".")[-2]
        data = interleave(weight, heads[kind]) if kind in heads else weight
        if data.ndim == 1:
            writer.add_tensor(to_gguf_name(name), data)
        else:
            quantized = quantize(data, GGMLQuantizationType.Q8_0)
            writer.add_tensor(to_gguf_name(name), quantized, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer) -> None:
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size())]
    types = dict.fromkeys(CONTROL, TokenType.CONTROL)
    types |= dict.fromkeys(MARKS, TokenType.USER_DEFINED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([types.get(token, TokenType.NORMAL) for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tokenizer.token_to_id(END_OF_TEXT))
    writer.add_eos_token_id(tokenizer.token_to_id(END))
    writer.add_eot_token_id(tokenizer.token_to_id(END))
    writer.add_pad_token_id(tokenizer.token_to_id(END_OF_TEXT))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


class Reader:
    """A GGUF file of ours, as what Hugging Face's form needs."""

    def __init__(self, path: Path) -> None:
        self._file = GGUFReader(path)

    def _value(self, key: str) -> Any:
        field = self._file.get_field(key)
        if field is None:
            raise ValueError(f"the file has no {key}")
        return field.contents()

    def config(self) -> dict[str, Any]:
        """The numbers of config.json."""
        value = self._value
        return {
            "vocab_size": value("llama.vocab_size"),
            "max_position_embeddings": value("llama.context_length"),
            "hidden_size": value("llama.embedding_length"),
            "num_hidden_layers": value("llama.block_count"),
            "intermediate_size": value("llama.feed_forward_length"),
            "num_attention_heads": value("llama.attention.head_count"),
            "num_key_value_heads": value("llama.attention.head_count_kv"),
            "rms_norm_eps": round(value("llama.attention.layer_norm_rms_epsilon"), 9),
            "rope_theta": value("llama.rope.freq_base"),
        }

    def weights(self) -> Weights:
        """All weights under Hugging Face's names, without `model.`."""
        config = self.config()
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
        found: Weights = {}
        for tensor in self._file.tensors:
            name = to_hf_name(tensor.name)
            data = dequantize(tensor.data, tensor.tensor_type)
            kind = name.split(".")[-2]
            found[name] = deinterleave(data, heads[kind]) if kind in heads else data
        return found

    def tokens(self) -> list[str]:
        """The vocabulary, by id."""
        return list(self._value("tokenizer.ggml.tokens"))

    def merges(self) -> list[str]:
        """The BPE's merges, in their order."""
        return list(self._value("tokenizer.ggml.merges"))

    def chat_template(self) -> str:
        """The chat template."""
        return str(self._value("tokenizer.chat_template"))
