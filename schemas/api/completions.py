"""Completions (legacy): the request, and what comes back. Other fields pass through."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from schemas.api.decoding import decoder
from schemas.api.fields import (
    ONE_KIND,
    Choices,
    JsonObject,
    LogitBias,
    ModelId,
    Penalty,
    Probability,
    Stop,
    StreamOptions,
    Temperature,
    Token,
    Tokens,
    Usage,
    require_one_kind,
)

Prompt = str | Annotated[list[str | Token | Tokens], Meta(min_length=1, extra_json_schema=ONE_KIND)]


class CompletionRequest(Struct):
    """The body of POST /v1/completions. `prompt` is text or tokens, one or a list."""

    model: ModelId
    prompt: Prompt
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    best_of: Annotated[int, Meta(ge=1, le=128)] | None = None
    echo: bool | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    n: Choices | None = None
    presence_penalty: Penalty | None = None
    seed: int | None = None
    stop: Stop | None = None
    suffix: str | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    user: str | None = None


class CompletionChoice(Struct):
    """One of the answers."""

    index: int
    text: str
    finish_reason: str | None
    logprobs: JsonObject | None = None


class Completion(Struct):
    """An answer, or a piece of a streamed one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    system_fingerprint: str | UnsetType | None = UNSET


def decode_request(body: bytes) -> CompletionRequest:
    """Read the body of a request. Raises InvalidRequest."""
    request = _decode(body)
    require_one_kind(request.prompt, "prompt")
    return request


_decode = decoder(CompletionRequest)
