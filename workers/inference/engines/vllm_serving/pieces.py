"""What vLLM added to a run, step by step: the engine state that is stored beside the chunks."""

from collections import defaultdict
from collections.abc import Iterable

import msgspec


class Piece(msgspec.Struct, array_like=True, frozen=True):
    """What one step added to one sequence: its prompt, its place among the prompt's, the tokens."""

    prompt: int
    index: int
    token_ids: list[int]
    finish_reason: str | None = None
    stop_reason: int | str | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Piece).decode


def encode_pieces(pieces: Iterable[Piece]) -> bytes:
    """Encode pieces; encoded ones may be joined."""
    return b"".join(_encode(piece) + b"\n" for piece in pieces)


def decode_pieces(state: bytes) -> dict[int, list[Piece]]:
    """Decode pieces, by prompt. Raises msgspec.DecodeError on what is none."""
    pieces: dict[int, list[Piece]] = defaultdict(list)
    for line in state.splitlines():
        piece = _decode(line)
        pieces[piece.prompt].append(piece)
    return pieces
