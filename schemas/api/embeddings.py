"""Embeddings: the request, and what comes back. Other fields pass through."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from schemas.api.decoding import decoder
from schemas.api.fields import ONE_KIND, ModelId, Token, Tokens, Usage, require_one_kind

MAX_INPUTS = 2048  # OpenAI's limit

Text = Annotated[str, Meta(min_length=1)]
Input = (
    Text
    | Annotated[
        list[Text | Token | Tokens],
        Meta(min_length=1, max_length=MAX_INPUTS, extra_json_schema=ONE_KIND),
    ]
)


class EmbeddingRequest(Struct):
    """The body of POST /v1/embeddings. `input` is text or tokens, one or a list."""

    model: ModelId
    input: Input
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


class Embedding(Struct):
    """One input's vector: numbers, or their 32-bit floats in base64."""

    index: int
    object: Literal["embedding"]
    embedding: list[float] | str


class EmbeddingList(Struct):
    """The vectors, in the order of the inputs."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


def decode_request(body: bytes) -> EmbeddingRequest:
    """Read the body of a request. Raises InvalidRequest."""
    request = _decode(body)
    require_one_kind(request.input, "input")
    return request


_decode = decoder(EmbeddingRequest)
