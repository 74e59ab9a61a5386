"""The tokenizer: byte-level BPE, and how a conversation becomes tokens and targets."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from models.text import Conversation

TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")
END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL = (END_OF_TEXT, START, END)
MARKS = (
    "<tools>",
    "</tools>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
# How llama.cpp splits text under the name "qwen2": digits one by one.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The same, but a capital never joins the space before it: " Paris" in a question and "Paris" in
# the arguments of a call then have the same tokens, and the model learns to copy them.
TRAINING_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|(?:[^\r\n\p{L}\p{N}](?!\p{Lu}))?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ASSISTANT = f"{START}assistant\n"


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """Learn a vocabulary of `size` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = splitting(TRAINING_SPLIT)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(CONTROL) - len(MARKS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = splitting(SPLIT)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in CONTROL])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in MARKS])
    return tokenizer


def splitting(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Split a text by a pattern, then into bytes."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


class Renderer:
    """Renders conversations by the chat template, as servers do."""

    def __init__(self) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        self._template: jinja2.Template = environment.from_string(TEMPLATE)

    def render(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], *, prompt: bool = False
    ) -> str:
        """Write a conversation as one text; `prompt`: up to where the assistant begins."""
        return self._template.render(
            messages=messages, tools=tools or None, add_generation_prompt=prompt
        )


def segments(text: str) -> list[tuple[str, bool]]:
    """Cut a rendered conversation into pieces, with whether the assistant writes them."""
    pieces: list[tuple[str, bool]] = []
    while text:
        before, mark, rest = text.partition(_ASSISTANT)
        pieces.append((before + mark, False))
        answer, end, text = rest.partition(END)
        if answer or end:
            pieces.append((answer + end, True))
    return pieces


def encode(
    conversation: Conversation, tokenizer: Tokenizer, renderer: Renderer
) -> tuple[list[int], list[bool]]:
    """Turn a conversation into tokens, and which of them are to be predicted."""
    ids: list[int] = []
    targets: list[bool] = []
    for piece, is_target in segments(renderer.render(conversation.messages, conversation.tools)):
        encoded = tokenizer.encode(piece).ids
        ids += encoded
        targets += [is_target] * len(encoded)
    return ids, targets
