"""Messages, Anthropic's form of a chat: the request, and what comes back.

Fields that are not named here are skipped. Source: the types of anthropic-python 2.13.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from schemas.api.chat import MAX_MESSAGES
from schemas.api.decoding import decoder
from schemas.api.fields import JsonObject, ModelId, Probability

CacheControl = dict[str, Raw] | None | UnsetType


class TextBlock(Struct, tag_field="type", tag="text"):
    """A piece of text."""

    text: str
    cache_control: CacheControl = UNSET


class Base64Source(Struct, tag_field="type", tag="base64"):
    """The content itself, in base64."""

    media_type: Annotated[str, Meta(pattern="^[a-z]+/[a-zA-Z0-9.+-]+$")]
    data: str


class UrlSource(Struct, tag_field="type", tag="url"):
    """Where the content is."""

    url: Annotated[str, Meta(min_length=1)]


class PlainSource(Struct, tag_field="type", tag="text"):
    """The content as text."""

    media_type: Literal["text/plain"]
    data: str


class ImageBlock(Struct, tag_field="type", tag="image"):
    """An image."""

    source: Base64Source | UrlSource
    cache_control: CacheControl = UNSET


class DocumentBlock(Struct, tag_field="type", tag="document"):
    """A document: a PDF in base64, or text."""

    source: Base64Source | PlainSource
    title: str | None = None
    context: str | None = None
    cache_control: CacheControl = UNSET


class ToolUseBlock(Struct, tag_field="type", tag="tool_use"):
    """The model calls a tool."""

    id: Annotated[str, Meta(min_length=1)]
    name: Annotated[str, Meta(min_length=1)]
    input: dict[str, Raw]
    cache_control: CacheControl = UNSET


class ToolResultBlock(Struct, tag_field="type", tag="tool_result"):
    """What a tool answered."""

    tool_use_id: Annotated[str, Meta(min_length=1)]
    content: str | list[TextBlock | ImageBlock | DocumentBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl = UNSET


class ThinkingBlock(Struct, tag_field="type", tag="thinking"):
    """What the model thought; the signature proves that it did."""

    thinking: str
    signature: str = ""


class RedactedThinkingBlock(Struct, tag_field="type", tag="redacted_thinking"):
    """What the model thought, readable for its provider only."""

    data: str


UserBlock = TextBlock | ImageBlock | DocumentBlock | ToolResultBlock
AssistantBlock = TextBlock | ToolUseBlock | ThinkingBlock | RedactedThinkingBlock


class UserTurn(Struct, tag_field="role", tag="user"):
    """What the user says and shows, and what tools answered."""

    content: str | list[UserBlock]


class AssistantTurn(Struct, tag_field="role", tag="assistant"):
    """What the model said before."""

    content: str | list[AssistantBlock]


class SystemTurn(Struct, tag_field="role", tag="system"):
    """Instructions in the middle of a conversation."""

    content: str | list[TextBlock]


class Tool(Struct):
    """A tool that the client runs. Those that Anthropic runs are refused by their `type`."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    input_schema: dict[str, Raw]
    type: Literal["custom"] | None = None
    description: str | None = None
    strict: bool | None = None
    cache_control: CacheControl = UNSET


class AutoChoice(Struct, tag_field="type", tag="auto"):
    """The model decides."""

    disable_parallel_tool_use: bool = False


class AnyChoice(Struct, tag_field="type", tag="any"):
    """The model must call some tool."""

    disable_parallel_tool_use: bool = False


class ToolChoice(Struct, tag_field="type", tag="tool"):
    """The model must call this tool."""

    name: str
    disable_parallel_tool_use: bool = False


class NoChoice(Struct, tag_field="type", tag="none"):
    """The model must call no tool."""


class ThinkingEnabled(Struct, tag_field="type", tag="enabled", omit_defaults=True):
    """Think, up to so many tokens."""

    budget_tokens: Annotated[int, Meta(ge=1024)]
    display: Literal["summarized", "omitted"] | None = None


class ThinkingAdaptive(Struct, tag_field="type", tag="adaptive", omit_defaults=True):
    """Think as much as the model finds right."""

    display: Literal["summarized", "omitted"] | None = None


class ThinkingDisabled(Struct, tag_field="type", tag="disabled"):
    """Do not think."""


class ThinkingBetweenTools(Struct, tag_field="type", tag="between_tools"):
    """Think between calls of tools only."""


class JsonOutput(Struct, tag_field="type", tag="json_schema"):
    """JSON that fits a schema."""

    schema: dict[str, Raw]


class OutputConfig(Struct):
    """How much the model exerts itself, and the form of its answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonOutput | None = None


class MessageMetadata(Struct):
    """Whom the request is for."""

    user_id: str | None = None


class CountRequest(Struct):
    """The body of POST /v1/messages/count_tokens."""

    model: ModelId
    messages: Annotated[
        list[UserTurn | AssistantTurn | SystemTurn], Meta(min_length=1, max_length=MAX_MESSAGES)
    ]
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[Tool], Meta(max_length=512)] | None = None
    tool_choice: AutoChoice | AnyChoice | ToolChoice | NoChoice | None = None
    thinking: (
        ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled | ThinkingBetweenTools | None
    ) = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl = UNSET


class MessagesRequest(CountRequest, kw_only=True):
    """The body of POST /v1/messages."""

    max_tokens: Annotated[int, Meta(ge=1)]
    stream: bool | None = None
    stop_sequences: Annotated[list[str], Meta(max_length=8191)] | None = None
    temperature: Probability | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    metadata: MessageMetadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None


class MessageUsage(Struct):
    """Tokens that a message took; those read from a cache are not among `input_tokens`."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens_details: JsonObject | UnsetType = UNSET


class Message(Struct):
    """An answer."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessageUsage


class MessageEvent(Struct):
    """A piece of a streamed answer, under the event's name: `content_block_delta` and so on."""

    type: str


class TokenCount(Struct):
    """How many tokens a prompt has."""

    input_tokens: int


class MessageErrorDetail(Struct):
    """What went wrong, in Anthropic's types; `details.error_code` is ours."""

    type: str
    message: str
    details: JsonObject | UnsetType = UNSET


class MessageError(Struct):
    """The envelope of every error of these routes."""

    type: Literal["error"]
    error: MessageErrorDetail
    request_id: str | None


class CancelledMessage(Struct):
    """Where a message stands after it was cancelled."""

    id: str
    type: Literal["message"]
    status: Literal["completed", "failed", "cancelled", "cancelling"]


decode_request = decoder(MessagesRequest)
decode_count = decoder(CountRequest)
