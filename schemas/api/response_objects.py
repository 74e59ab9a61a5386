"""What comes of a request for a response, as it is described: the object, its events, its end."""

from typing import Any, Literal

from msgspec import Struct

from schemas.api.conversations import Item


class ResponseProblem(Struct):
    """Why a response failed."""

    code: str
    message: str


class ResponseCut(Struct):
    """Why a response is incomplete."""

    reason: str


class ResponseConversation(Struct):
    """The conversation that a response went on with."""

    id: str


class ResponseUsage(Struct):
    """Tokens, added up over the steps of a response."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class Response(Struct, kw_only=True):
    """A response: what was asked for, how far it is, and what it has come to."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    completed_at: int | None
    background: bool
    error: ResponseProblem | None
    incomplete_details: ResponseCut | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: list[Item]
    parallel_tool_calls: bool
    previous_response_id: str | None
    conversation: ResponseConversation | None
    prompt: dict[str, Any] | None
    prompt_cache_key: str | None
    prompt_cache_retention: str | None
    reasoning: dict[str, Any] | None
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    truncation: str
    usage: ResponseUsage | None
    user: str | None
    metadata: dict[str, str]


class ResponseEvent(Struct):
    """An event of a response's stream; what else it has depends on its type."""

    type: str
    sequence_number: int


class ResponseDeleted(Struct):
    """A response is gone, and what was said in it."""

    id: str
    object: Literal["response.deleted"]
    deleted: Literal[True]


class ResponseInputTokens(Struct):
    """How many tokens an input has."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class CompactedItem(Struct):
    """What the user said, or the sealed summary; what else it has depends on its type."""

    id: str
    type: str


class CompactedResponse(Struct):
    """A compaction: what to go on with in place of a long input."""

    id: str
    object: Literal["response.compaction"]
    created_at: int
    output: list[CompactedItem]
    usage: ResponseUsage


class WebhookSecret(Struct):
    """The secret of a caller's webhooks."""

    object: str
    secret: str
