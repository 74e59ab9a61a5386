"""Responses: the request, and the object that comes of it.

The object has the fields that OpenAI's and Open Responses' documents require, all of them always.
Sources: OpenAI's OpenAPI document, August 2026; Open Responses, 2026-04-24.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from schemas.api.chat import ConversationRef, PromptReference
from schemas.api.decoding import decoder
from schemas.api.fields import (
    Metadata,
    ModelId,
    Penalty,
    Probability,
    StreamOptions,
    Temperature,
    WebhookUrl,
)
from schemas.api.response_tools import Choice, Tool, require_offered, to_choice, to_tools
from schemas.errors import InvalidRequest
from schemas.raw import OptionalRaw

MAX_INPUT: Final = 4096  # items: a longer input fits no model

Include = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Id = Annotated[str, Meta(min_length=1, max_length=128)]


class TextFormat(Struct, tag_field="type", tag="text"):
    """Any text."""


class JsonObjectFormat(Struct, tag_field="type", tag="json_object"):
    """A JSON object of whatever form."""


class JsonSchemaFormat(Struct, tag_field="type", tag="json_schema"):
    """JSON of a certain form."""

    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class TextOptions(Struct):
    """What the text shall be like."""

    format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Struct):
    """How much a model shall think, and what is shown of it."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class ResponseRequest(Struct):
    """The body of POST /v1/responses. Items and tools are checked by `to_items`, `to_tools`."""

    model: ModelId = ""
    input: str | Annotated[list[msgspec.Raw], Meta(max_length=MAX_INPUT)] | None = None
    instructions: str | None = None
    previous_response_id: Id | None = None
    conversation: Id | ConversationRef | None = None
    include: list[Include] | None = None
    tools: Annotated[list[msgspec.Raw], Meta(max_length=128)] | None = None
    tool_choice: OptionalRaw = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Annotated[int, Meta(ge=1)] | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=16)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    background: bool | None = None
    metadata: Metadata | None = None
    service_tier: (
        Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None
    ) = None
    prompt: PromptReference | None = None
    prompt_cache_key: Annotated[str, Meta(max_length=512)] | None = None
    prompt_cache_retention: Literal["in-memory", "in_memory", "24h"] | None = None
    safety_identifier: Annotated[str, Meta(max_length=64)] | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None
    webhook: WebhookUrl | None = None
    context_management: OptionalRaw = None
    moderation: OptionalRaw = None

    @property
    def kept(self) -> bool:
        """Whether it is stored: it is unless the client says otherwise."""
        return self.store is not False

    def to_tools(self) -> list[Tool]:
        """The tools it names. Raises InvalidRequest naming the field."""
        return to_tools(self.tools or [])

    def to_choice(self) -> Choice:
        """Which of its tools the model may or must call. Raises InvalidRequest."""
        return to_choice(self.tool_choice)


_NOT_HERE: Final = {
    "context_management": "this server compacts when it is asked to: POST /v1/responses/compact",
    "moderation": "this server moderates nothing",
}
_decode = decoder(ResponseRequest)


def decode_request(body: bytes) -> ResponseRequest:
    """Read and check a request. Raises InvalidRequest naming the field."""
    request = _decode(body)
    if request.previous_response_id is not None and request.conversation is not None:
        raise InvalidRequest(
            "'previous_response_id' and 'conversation' exclude each other",
            param="previous_response_id",
        )
    if request.background and not request.kept:
        raise InvalidRequest("'background' needs 'store'", param="background")
    if request.webhook is not None and not request.background:
        raise InvalidRequest("'webhook' is for responses in the background", param="webhook")
    if request.top_logprobs and "message.output_text.logprobs" not in (request.include or ()):
        request.include = [*(request.include or ()), "message.output_text.logprobs"]
    for name, why in _NOT_HERE.items():
        if bytes(getattr(request, name) or b"null") != b"null":
            raise InvalidRequest(f"'{name}': {why}", param=name, code="unsupported_parameter")
    require_offered(request.to_choice(), request.to_tools())
    return request


def to_object(
    request: ResponseRequest, response_id: str, created: int, *, conversation: str | None = None
) -> dict[str, Any]:
    """The response object as it begins: in progress, without output."""
    reasoning, text = request.reasoning or Reasoning(), request.text or TextOptions()
    return {
        "id": response_id,
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "completed_at": None,
        "background": bool(request.background),
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "model": request.model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "conversation": {"id": conversation} if conversation is not None else None,
        "prompt": request.prompt,
        "prompt_cache_key": request.prompt_cache_key,
        "prompt_cache_retention": request.prompt_cache_retention,
        "reasoning": {
            "effort": reasoning.effort,
            "summary": reasoning.summary or reasoning.generate_summary,
        },
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": request.kept,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": {
            "format": text.format or {"type": "text"},
            "verbosity": text.verbosity or "medium",
        },
        "tool_choice": request.to_choice().to_wire(),
        "tools": [tool.to_wire() for tool in request.to_tools()],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "presence_penalty": request.presence_penalty or 0.0,
        "frequency_penalty": request.frequency_penalty or 0.0,
        "truncation": request.truncation or "disabled",
        "usage": None,
        "user": request.user,
        "metadata": request.metadata or {},
    }
