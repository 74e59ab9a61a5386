"""Chat completions: the request, and what comes back.

Fields that are not named here pass through to the engine (`top_k`, `repetition_penalty`, …).
Source: OpenAI's OpenAPI document, August 2026.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from schemas.api.conversations import BranchName
from schemas.api.decoding import decoder
from schemas.api.fields import (
    Choices,
    JsonObject,
    LogitBias,
    Metadata,
    ModelId,
    Penalty,
    Probability,
    Stop,
    StreamOptions,
    Temperature,
    Usage,
)

ConversationId = Annotated[str, Meta(min_length=1, max_length=64)]

MAX_MESSAGES = 4096  # a longer history fits no model, and would be checked for nothing


class TextPart(Struct, tag_field="type", tag="text"):
    """A piece of text."""

    text: str


class RefusalPart(Struct, tag_field="type", tag="refusal"):
    """A refusal that the model gave earlier."""

    refusal: str


class ImageUrl(Struct):
    """Where an image is: a URL, or `data:` with the image itself."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(Struct, tag_field="type", tag="image_url"):
    """An image."""

    image_url: ImageUrl


class InputAudio(Struct):
    """Sound, base64-encoded."""

    data: str
    format: str


class AudioPart(Struct, tag_field="type", tag="input_audio"):
    """A recording."""

    input_audio: InputAudio


class FileReference(Struct):
    """A file: one uploaded before, or its content."""

    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class FilePart(Struct, tag_field="type", tag="file"):
    """A file."""

    file: FileReference


class Url(Struct):
    """Where something is."""

    url: str


class VideoPart(Struct, tag_field="type", tag="video_url"):
    """A video (not in OpenAI's API; several engines take it)."""

    video_url: Url


class AudioUrlPart(Struct, tag_field="type", tag="audio_url"):
    """A recording by its address (not in OpenAI's API; several engines take it)."""

    audio_url: Url


UserPart = TextPart | ImagePart | AudioPart | FilePart | VideoPart | AudioUrlPart


class FunctionCall(Struct):
    """A function's name and its arguments as JSON text."""

    name: str
    arguments: str


class CustomCall(Struct):
    """A custom tool's name and its input."""

    name: str
    input: str


class FunctionToolCall(Struct, tag_field="type", tag="function"):
    """The model calls a function."""

    id: str
    function: FunctionCall


class CustomToolCall(Struct, tag_field="type", tag="custom"):
    """The model calls a custom tool."""

    id: str
    custom: CustomCall


class SystemMessage(Struct, tag_field="role", tag="system"):
    """Instructions."""

    content: str | list[TextPart]
    name: str | None = None


class DeveloperMessage(Struct, tag_field="role", tag="developer"):
    """Instructions, as newer models call them."""

    content: str | list[TextPart]
    name: str | None = None


class UserMessage(Struct, tag_field="role", tag="user"):
    """What the user says and shows."""

    content: str | list[UserPart]
    name: str | None = None


class AudioId(Struct):
    """A recording that the model made earlier."""

    id: str


class AssistantMessage(Struct, tag_field="role", tag="assistant"):
    """What the model said before."""

    content: str | list[TextPart | RefusalPart] | None = None
    refusal: str | None = None
    name: str | None = None
    audio: AudioId | None = None
    tool_calls: list[FunctionToolCall | CustomToolCall] | None = None
    function_call: FunctionCall | None = None


class ToolMessage(Struct, tag_field="role", tag="tool"):
    """What a tool answered."""

    content: str | list[TextPart]
    tool_call_id: str


class FunctionMessage(Struct, tag_field="role", tag="function"):
    """What a function answered (deprecated)."""

    name: str
    content: str | None = None


Message = (
    SystemMessage
    | DeveloperMessage
    | UserMessage
    | AssistantMessage
    | ToolMessage
    | FunctionMessage
)


class Function(Struct):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class FunctionTool(Struct, tag_field="type", tag="function"):
    """A function offered to the model."""

    function: Function


class Custom(Struct):
    """A tool that takes free text."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    description: str | None = None
    format: JsonObject | None = None


class CustomTool(Struct, tag_field="type", tag="custom"):
    """A custom tool offered to the model."""

    custom: Custom


class Named(Struct):
    """Something chosen by its name."""

    name: str


class ChosenFunction(Struct, tag_field="type", tag="function"):
    """The model must call this function."""

    function: Named


class ChosenCustom(Struct, tag_field="type", tag="custom"):
    """The model must call this custom tool."""

    custom: Named


class ToolSet(Struct):
    """Some of the offered tools."""

    mode: Literal["auto", "required"]
    tools: list[JsonObject]


class AllowedTools(Struct, tag_field="type", tag="allowed_tools"):
    """The model may call only these."""

    allowed_tools: ToolSet


class TextFormat(Struct, tag_field="type", tag="text"):
    """Free text."""


class JsonFormat(Struct, tag_field="type", tag="json_object"):
    """Some JSON object."""


class JsonSchema(Struct):
    """A JSON schema with its name."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    description: str | None = None
    schema: JsonObject | None = None
    strict: bool | None = None


class JsonSchemaFormat(Struct, tag_field="type", tag="json_schema"):
    """JSON that fits a schema."""

    json_schema: JsonSchema


class AudioOutput(Struct):
    """How the answer is spoken."""

    format: str
    voice: str | JsonObject


class Prediction(Struct, tag_field="type", tag="content"):
    """Text that the answer will probably contain."""

    content: str | list[TextPart]


class InputText(Struct, tag_field="type", tag="input_text"):
    """A text, as Responses write one."""

    text: str


class PromptReference(Struct):
    """A prompt that is kept: its newest version or a certain one, and its variables' values."""

    id: Annotated[str, Meta(min_length=1, max_length=64)]
    version: (
        Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,8}$")]
        | Annotated[int, Meta(ge=1, le=999_999_999)]
        | None
    ) = None
    variables: dict[str, str | InputText] | None = None


class ConversationRef(Struct):
    """A conversation, and a branch of it (the active one by default)."""

    id: ConversationId
    branch: BranchName | None = None


class ChatRequest(Struct):
    """The body of POST /v1/chat/completions. Other fields pass through to the engine."""

    model: ModelId
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    audio: AudioOutput | None = None
    frequency_penalty: Penalty | None = None
    function_call: Literal["none", "auto"] | Named | None = None
    functions: Annotated[list[Function], Meta(max_length=128)] | None = None
    logit_bias: LogitBias | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    metadata: Metadata | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    moderation: JsonObject | None = None
    n: Choices | None = None
    parallel_tool_calls: bool | None = None
    prediction: Prediction | None = None
    presence_penalty: Penalty | None = None
    prompt: PromptReference | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    response_format: TextFormat | JsonFormat | JsonSchemaFormat | None = None
    safety_identifier: Annotated[str, Meta(max_length=64)] | None = None
    seed: int | None = None
    service_tier: (
        Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None
    ) = None
    stop: Stop | None = None
    store: bool | None = None
    temperature: Temperature | None = None
    tool_choice: (
        Literal["none", "auto", "required"] | ChosenFunction | ChosenCustom | AllowedTools | None
    ) = None
    tools: Annotated[list[FunctionTool | CustomTool], Meta(max_length=512)] | None = None
    top_p: Probability | None = None
    user: str | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    web_search_options: JsonObject | None = None
    conversation: ConversationId | ConversationRef | None = None


class TurnRequest(ChatRequest):
    """The body of POST /v1/conversations/{id}/runs: a chat request, with or without messages.

    `content` is what the user says, in place of `messages`.
    """

    messages: Annotated[list[Message], Meta(max_length=MAX_MESSAGES)] = []
    content: str | list[UserPart] | None = None
    branch: BranchName | None = None


class RegenerateRequest(ChatRequest):
    """The body of POST /v1/conversations/{id}/items/{item_id}/regenerate: no messages."""

    messages: Annotated[list[Message], Meta(max_length=0)] = []


class PromptedRequest(ChatRequest, kw_only=True):
    """A chat request with a prompt, which may bring the model and the messages."""

    model: ModelId = ""
    messages: Annotated[list[Message], Meta(max_length=MAX_MESSAGES)] = []


class Reply(Struct):
    """The model's message."""

    role: str
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[FunctionToolCall | CustomToolCall] | UnsetType = UNSET


class ChatChoice(Struct):
    """One of the `n` answers."""

    index: int
    message: Reply
    finish_reason: str | None
    logprobs: JsonObject | None = None


class ChatCompletion(Struct):
    """An answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None
    service_tier: str | UnsetType | None = UNSET
    system_fingerprint: str | UnsetType | None = UNSET


class ChunkChoice(Struct):
    """What one of the `n` answers grows by."""

    index: int
    delta: JsonObject
    finish_reason: str | None = None
    logprobs: JsonObject | None = None


class ChatCompletionChunk(Struct):
    """A piece of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    service_tier: str | UnsetType | None = UNSET
    system_fingerprint: str | UnsetType | None = UNSET


decode_request = decoder(ChatRequest)
decode_prompted = decoder(PromptedRequest)
decode_turn = decoder(TurnRequest)
decode_regenerate = decoder(RegenerateRequest)
