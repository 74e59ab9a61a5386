"""The simulated model's embeddings: texts that share words are near each other."""

import base64
import hashlib
import math
import struct
from typing import Any

import msgspec

from schemas.errors import UpstreamRejected
from workers.inference.engines.simulation.answers import Fields, to_rejection
from workers.inference.engines.simulation.sentences import tokenise

_DIMENSIONS = 384
_DIMENSIONS_LIMIT = 16_384
_FEATURES = 8  # entries of the vector that a word adds to

_encode = msgspec.json.Encoder().encode


class _Request(msgspec.Struct):
    input: str | list[str | int | list[int]]
    encoding_format: str | None = None
    dimensions: int | None = None


def embed(fields: Fields, model: str, seed: int) -> tuple[bytes, bytes]:
    """Embed what an embeddings request asks for: the response's body, and its usage."""
    try:
        request = msgspec.json.decode(_encode(fields), type=_Request)
    except msgspec.ValidationError as error:
        raise to_rejection(error) from None
    dimensions = _DIMENSIONS if request.dimensions is None else request.dimensions
    if not 1 <= dimensions <= _DIMENSIONS_LIMIT:
        raise UpstreamRejected(
            f"dimensions must be from 1 to {_DIMENSIONS_LIMIT}", param="dimensions"
        )
    texts = _to_texts(request.input)
    write = _to_base64 if request.encoding_format == "base64" else _to_floats
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": write(_vector(tokens, dimensions, seed)),
        }
        for index, tokens in enumerate(texts)
    ]
    count = sum(len(tokens) for tokens in texts)
    usage = {"prompt_tokens": count, "total_tokens": count}
    body = {"object": "list", "data": data, "model": model, "usage": usage}
    return _encode(body), _encode(usage)


def last_text(fields: Fields) -> str:
    """The text that may hold cues."""
    try:
        asked = msgspec.json.decode(fields.get("input", b'""'))
    except msgspec.DecodeError:
        return ""
    last = asked[-1] if isinstance(asked, list) and asked else asked
    return last if isinstance(last, str) else ""


def _to_texts(asked: str | list[str | int | list[int]]) -> list[list[str]]:
    """What to embed, each in tokens; token ids stand for themselves."""
    if isinstance(asked, str):
        return [tokenise(asked)]
    if not asked:
        raise UpstreamRejected("there is nothing to embed", param="input")
    if all(isinstance(part, int) for part in asked):
        return [[str(part) for part in asked]]
    texts = []
    for part in asked:
        if isinstance(part, int):
            raise UpstreamRejected("an input is text or token ids, not both", param="input")
        texts.append(tokenise(part) if isinstance(part, str) else [str(token) for token in part])
    return texts


def _vector(tokens: list[str], dimensions: int, seed: int) -> list[float]:
    """A unit vector: each word adds to a few entries, which its hash names."""
    vector = [0.0] * dimensions
    key = seed.to_bytes(8, "big", signed=True)
    for token in tokens or [""]:
        word = token.strip().lower().encode()
        digest = hashlib.blake2b(word, digest_size=4 * _FEATURES, key=key).digest()
        for number in struct.unpack(f">{_FEATURES}I", digest):
            vector[(number >> 1) % dimensions] += 1.0 if number & 1 else -1.0
    length = math.sqrt(sum(entry * entry for entry in vector))
    if not length:
        vector[0] = length = 1.0
    return [entry / length for entry in vector]


def _to_floats(vector: list[float]) -> list[float]:
    return [round(entry, 8) for entry in vector]


def _to_base64(vector: list[float]) -> Any:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
