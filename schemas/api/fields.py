"""Types of fields that several request bodies have in common."""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

ModelId = Annotated[str, Meta(min_length=1, max_length=256, description="A model's id.")]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]
LogitBias = dict[str, Annotated[float, Meta(ge=-100, le=100)]]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Choices = Annotated[int, Meta(ge=1, le=128)]
Stop = str | Annotated[list[str], Meta(max_length=4)]


class JsonObject(Struct):
    """Any JSON object: only that it is one is looked at."""


class StreamOptions(Struct):
    """What a stream carries besides its text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Usage(Struct):
    """Tokens that a request took."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int | msgspec.UnsetType = msgspec.UNSET
    prompt_tokens_details: JsonObject | msgspec.UnsetType | None = msgspec.UNSET
    completion_tokens_details: JsonObject | msgspec.UnsetType | None = msgspec.UNSET
