"""The library's vectors, written as a client asked for them."""

import base64
import math
import struct

import msgspec

from schemas.errors import UpstreamRejected
from workers.inference.engines.contract import Generation, Outcome
from workers.inference.engines.llama.answers import Usage

_encode = msgspec.json.Encoder().encode


class _Vector(msgspec.Struct):
    embedding: list[float]


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    usage: Usage


def to_vectors(job: Generation, body: bytes) -> tuple[bytes, Outcome]:
    """Write the library's vectors as they were asked for: shorter, or packed."""
    found = msgspec.json.decode(body, type=_Vectors)
    wanted = job.body.get("dimensions")
    dimensions = None if wanted is None else msgspec.json.decode(wanted)
    width = len(found.data[0].embedding) if found.data else 0
    if dimensions is not None and not (isinstance(dimensions, int) and 0 < dimensions <= width):
        raise UpstreamRejected(f"must be from 1 to {width} for this model", param="dimensions")
    packed = bytes(job.body.get("encoding_format", b"null")) == b'"base64"'
    data = []
    for index, entry in enumerate(found.data):
        vector = entry.embedding if dimensions is None else _shorten(entry.embedding, dimensions)
        value = _pack(vector) if packed else vector
        data.append({"object": "embedding", "index": index, "embedding": value})
    usage = {
        "prompt_tokens": found.usage.prompt_tokens,
        "total_tokens": found.usage.total_tokens,
    }
    answer = {"object": "list", "data": data, "model": job.model, "usage": usage}
    return _encode(answer), Outcome(_encode(usage))


def _shorten(vector: list[float], dimensions: int) -> list[float]:
    """The first numbers of a vector, as a unit vector again."""
    short = vector[:dimensions]
    length = math.sqrt(sum(number * number for number in short)) or 1.0
    return [number / length for number in short]


def _pack(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
