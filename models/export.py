"""Turns the GGUF file into a folder for Hugging Face's libraries and vLLM.

`python -m models.export models/jan-tiny.gguf OUTDIR`
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models

from models.gguf_file import Reader
from models.vocabulary import CONTROL, END, END_OF_TEXT, MARKS, SPLIT, splitting

FILE = Path(__file__).parent / "jan-tiny.gguf"


def main() -> None:
    """Convert."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf", type=Path, nargs="?", default=FILE)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    export(args.gguf, args.out)
    print(args.out)


def export(source: Path, out: Path) -> None:
    """Write config.json, the tokenizer and model.safetensors into the folder `out`."""
    reader = Reader(source)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = to_tokenizer(reader.tokens(), reader.merges())
    ids = {"end": tokenizer.token_to_id(END), "none": tokenizer.token_to_id(END_OF_TEXT)}
    _write_json(out / "generation_config.json", _generation_config(ids))
    _write_json(out / "tokenizer_config.json", _tokenizer_config(reader, tokenizer))
    (out / "chat_template.jinja").write_text(reader.chat_template(), encoding="utf-8")
    tokenizer.save(str(out / "tokenizer.json"))
    weights = {
        name if name.startswith("lm_head") else f"model.{name}": np.ascontiguousarray(
            weight.astype(np.float16)
        )
        for name, weight in reader.weights().items()
    }
    tied = "lm_head.weight" not in weights  # then the embeddings serve twice
    _write_json(out / "config.json", _config(reader.config(), ids, tied=tied))
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


def to_tokenizer(tokens: list[str], merges: list[str]) -> Tokenizer:
    """Make the tokenizer of a vocabulary and its merges."""
    marked = {*CONTROL, *MARKS}
    vocabulary = {token: index for index, token in enumerate(tokens) if token not in marked}
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = splitting(SPLIT)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in CONTROL])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in MARKS])
    return tokenizer


def _config(numbers: dict[str, Any], ids: dict[str, int], *, tied: bool) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **numbers,
        "head_dim": numbers["hidden_size"] // numbers["num_attention_heads"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": ids["none"],
        "eos_token_id": ids["end"],
        "pad_token_id": ids["none"],
        "dtype": "float16",
        "torch_dtype": "float16",  # what older versions call it
    }


def _generation_config(ids: dict[str, int]) -> dict[str, Any]:
    return {
        "bos_token_id": ids["none"],
        "eos_token_id": [ids["end"], ids["none"]],
        "pad_token_id": ids["none"],
    }


def _tokenizer_config(reader: Reader, tokenizer: Tokenizer) -> dict[str, Any]:
    added = {
        str(tokenizer.token_to_id(text)): {
            "content": text,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": text in CONTROL,
        }
        for text in (*CONTROL, *MARKS)
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": reader.config()["max_position_embeddings"],
        "added_tokens_decoder": added,
        "bos_token": END_OF_TEXT,
        "eos_token": END,
        "pad_token": END_OF_TEXT,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": reader.chat_template(),
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
