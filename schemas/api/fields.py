"""Types of fields that several request bodies have in common."""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from schemas.errors import InvalidRequest

ModelId = Annotated[str, Meta(min_length=1, max_length=256, description="A model's id.")]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]
WebhookUrl = Annotated[str, Meta(max_length=2048, pattern=r"^https?://")]
LogitBias = dict[str, Annotated[float, Meta(ge=-100, le=100)]]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Choices = Annotated[int, Meta(ge=1, le=128)]
Stop = str | Annotated[list[str], Meta(max_length=4)]
Token = Annotated[int, Meta(ge=0)]
Tokens = Annotated[list[Token], Meta(min_length=1)]

# Lists of texts, of tokens, or of lists of tokens: msgspec knows no union of lists, so that is told
# here for the schema and checked by `require_one_kind`.
ONE_KIND = {
    "anyOf": [
        {"items": {"type": "string"}},
        {"items": {"type": "integer"}},
        {"items": {"type": "array"}},
    ]
}


def require_one_kind(value: object, param: str) -> None:
    """Refuse a list that mixes texts and tokens. Raises InvalidRequest."""
    if isinstance(value, list) and len(set(map(type, value))) > 1:
        raise InvalidRequest(f"'{param}' mixes texts and tokens", param=param)


class JsonObject(Struct):
    """Any JSON object: only that it is one is looked at."""


class StreamOptions(Struct):
    """What a stream carries besides its text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


def require_stream(options: StreamOptions | None, stream: bool) -> None:
    """Refuse options of a stream for what is none, as OpenAI does. Raises InvalidRequest."""
    if options is not None and not stream:
        raise InvalidRequest(
            "'stream_options' is only allowed when 'stream' is true", param="stream_options"
        )


class Usage(Struct):
    """Tokens that a request took."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int | msgspec.UnsetType = msgspec.UNSET
    prompt_tokens_details: JsonObject | msgspec.UnsetType | None = msgspec.UNSET
    completion_tokens_details: JsonObject | msgspec.UnsetType | None = msgspec.UNSET
