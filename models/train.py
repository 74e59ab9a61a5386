"""Trains jan-tiny from scratch: `python -m models.train`. The same seed gives the same file."""

import argparse
import hashlib
import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch.nn import functional

from models import copying, gguf_file, text
from models.network import Network, Shape
from models.vocabulary import END_OF_TEXT, Renderer, encode, train_tokenizer

FILE = Path(__file__).parent / "jan-tiny.gguf"
ROW, ROWS = 512, 8  # tokens of one row, rows of one step
LONG_EVERY = 16  # steps; then rows are as long as the context, so that late positions are learned
COPY_EVERY = 2  # steps; then a row is of random tokens that repeat, so that any token is copied
TOKENIZER_CONVERSATIONS = 6000
DIGEST_EVERY = 40  # conversations


def main() -> None:
    """Train, and write the file."""
    args = _arguments()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    started = time.monotonic()
    tokenizer = make_tokenizer(args.seed)
    network = Network(Shape(vocabulary=tokenizer.get_vocab_size()))
    copying.prepare(network, torch.Generator().manual_seed(args.seed))
    print(f"{sum(weight.numel() for weight in network.parameters()):,} parameters", flush=True)
    train(network, batches(args.seed, tokenizer), args.steps)
    save(network, tokenizer, args.out)
    took = time.monotonic() - started
    digest = hashlib.sha256(args.out.read_bytes()).hexdigest()
    print(f"{args.out}: {args.out.stat().st_size:,} bytes, {took:.0f} s, sha256 {digest}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def make_tokenizer(seed: int) -> Tokenizer:
    """Learn the vocabulary from a sample of the text."""
    renderer = Renderer()
    sample = itertools.islice(text.Writer(seed).conversations(), TOKENIZER_CONVERSATIONS)
    rendered = [renderer.render(item.messages, item.tools) for item in sample]
    return train_tokenizer([*rendered, *text.digest() * 20], Shape.vocabulary)


class Row(NamedTuple):
    """Tokens, which of them are to be predicted, and the conversation that each belongs to."""

    ids: list[int]
    targets: list[bool]
    parts: list[int]


@dataclass(frozen=True)
class Batch:
    """Token ids, the ids to predict (-100: none), and which conversation a token belongs to."""

    ids: torch.Tensor
    targets: torch.Tensor
    parts: torch.Tensor | None


def batches(seed: int, tokenizer: Tokenizer) -> Iterator[Batch]:
    """Make batches for ever."""
    pieces = _pieces(seed, tokenizer)
    rng = random.Random(seed)  # noqa: S311  # text, no secrets
    for step in itertools.count():
        is_long = step % LONG_EVERY == LONG_EVERY - 1
        length = Shape.context if is_long else ROW
        rows = [_fill(pieces, length + 1) for _ in range(ROW * ROWS // length)]
        if step % COPY_EVERY == 0:
            rows[-1] = _repeated(rng, tokenizer.get_vocab_size(), length + 1)
        ids, targets, parts = (torch.tensor(column) for column in zip(*rows, strict=True))
        wanted = ids[:, 1:].where(targets[:, 1:], -100)
        yield Batch(ids[:, :-1], wanted, None if is_long else parts[:, :-1])


def _pieces(seed: int, tokenizer: Tokenizer) -> Iterator[tuple[list[int], list[bool]]]:
    renderer = Renderer()
    separator = tokenizer.token_to_id(END_OF_TEXT)
    paragraphs = itertools.cycle(text.digest())
    for count, conversation in enumerate(text.Writer(seed + 1).conversations()):
        yield encode(conversation, tokenizer, renderer)
        if count % DIGEST_EVERY == 0:
            ids = [separator, *tokenizer.encode(next(paragraphs)).ids, separator]
            yield ids, [False] + [True] * (len(ids) - 1)


def _fill(pieces: Iterator[tuple[list[int], list[bool]]], length: int) -> Row:
    """Put whole conversations one behind the other, cut at the end: a row begins with one."""
    row = Row([], [], [])
    for part in itertools.count():
        ids, targets = next(pieces)
        row.ids.extend(ids)
        row.targets.extend(targets)
        row.parts.extend([part] * len(ids))
        if len(row.ids) >= length:
            break
    return Row(row.ids[:length], row.targets[:length], row.parts[:length])


def _repeated(rng: random.Random, vocabulary: int, length: int) -> Row:
    """Some random tokens over and over: all but the first time can be predicted."""
    period = rng.randint(8, 128)
    times = length // period + 1
    ids = [rng.randrange(vocabulary) for _ in range(period)] * times
    targets = [False] * period + [True] * (period * (times - 1))
    return Row(ids[:length], targets[:length], [0] * length)


def train(network: Network, source: Iterator[Batch], steps: int) -> None:
    """Train for a number of steps: Muon for the matrices, AdamW for the rest."""
    inner = {id(weight) for weight in network.layers.parameters() if weight.dim() == 2}
    matrices = [weight for weight in network.parameters() if id(weight) in inner]
    others = [weight for weight in network.parameters() if id(weight) not in inner]
    optimizers = [
        torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=0.003, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
        for optimizer in optimizers
    ]
    started = time.monotonic()
    for step, batch in zip(range(steps), source, strict=False):
        with torch.autocast("cpu", torch.bfloat16):
            wanted = batch.targets >= 0
            logits = network.logits(network(batch.ids, batch.parts)[wanted])
        loss = functional.cross_entropy(logits.float(), batch.targets[wanted])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
        if step % 20 == 0 or step == steps - 1:
            took = time.monotonic() - started
            print(f"step {step} of {steps}: loss {loss.item():.4f}, {took:.0f} s", flush=True)


def _rate(step: int, steps: int) -> float:
    """Warm up, hold, and go down to nothing over the last half."""
    warm = min(1.0, (step + 1) / 20)
    return warm * min(1.0, 2 * (steps - step) / steps)


def save(network: Network, tokenizer: Tokenizer, path: Path) -> None:
    """Write the GGUF file."""
    shape = network.shape
    config = {
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.context,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "intermediate_size": shape.hidden,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": shape.epsilon,
        "rope_theta": shape.rope_theta,
    }
    weights = {name: weight.detach().float().numpy() for name, weight in network.named_parameters()}
    gguf_file.write(path, weights, config, tokenizer)


if __name__ == "__main__":
    main()
