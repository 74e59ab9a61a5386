"""Generations: started, read on, cancelled."""

from typing import Any, Final

from msgspec import Struct

from edge.openapi.operation import GENERATION, IDEMPOTENCY, CancelledRun, Operation, Parameter
from schemas.api.chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from schemas.api.completions import Completion, CompletionRequest
from schemas.api.embeddings import EmbeddingList, EmbeddingRequest
from schemas.api.messages import (
    CancelledMessage,
    CountRequest,
    Message,
    MessageError,
    MessageEvent,
    MessagesRequest,
    TokenCount,
)

_ID = Parameter("id", "path", "The id of the completion.", {"type": "string"})
_STREAM = Parameter(
    "stream", "query", "`true` streams like the body's field.", {"enum": ["true", "false"]}
)
_AFTER = Parameter(
    "starting_after",
    "query",
    "The index of the last event received.",
    {"type": "integer", "minimum": 0, "maximum": 999999999},
)
_LAST_EVENT = Parameter(
    "Last-Event-ID",
    "header",
    "The same, as browsers send it.",
    {"type": "string", "pattern": "^[0-9]{1,9}$"},
)
_EVENT_ID: Final = {"type": "string", "pattern": "^[0-9]{1,9}([.][0-9]{1,4})?$"}
_AFTER_EVENT = Parameter("starting_after", "query", "The id of the last event received.", _EVENT_ID)
_LAST_MESSAGE_EVENT = Parameter(
    "Last-Event-ID", "header", "The same, as browsers send it.", _EVENT_ID
)


def _generation(
    path: str, name: str, text: str, takes: type[Struct], answers: type[Struct], **more: Any
) -> Operation:
    return Operation(
        path,
        "post",
        name,
        text,
        answers,
        takes=takes,
        errors=GENERATION,
        public=False,
        **more,
    )


def _resume(
    path: str, name: str, answers: type[Struct], events: type[Struct], **more: Any
) -> Operation:
    more = {"parameters": (_ID, _AFTER, _LAST_EVENT), **more}
    return Operation(
        path,
        "get",
        name,
        "Go on reading a run, during it or for an hour after, on any edge.",
        answers,
        events=events,
        errors=GENERATION,
        public=False,
        **more,
    )


def _cancel(path: str, name: str, answers: type[Struct] = CancelledRun, **more: Any) -> Operation:
    return Operation(
        path,
        "post",
        name,
        "Stop a run. What was generated stays.",
        answers,
        parameters=(_ID,),
        errors=GENERATION,
        public=False,
        **more,
    )


OPERATIONS: Final = (
    _generation(
        "/v1/chat/completions",
        "createChatCompletion",
        "Answer a conversation. Unknown fields pass through to the engine.",
        ChatRequest,
        ChatCompletion,
        events=ChatCompletionChunk,
        parameters=(_STREAM, IDEMPOTENCY),
    ),
    _resume(
        "/v1/chat/completions/{id}/stream",
        "resumeChatCompletion",
        ChatCompletion,
        ChatCompletionChunk,
    ),
    _cancel("/v1/chat/completions/{id}/cancel", "cancelChatCompletion"),
    _generation(
        "/v1/messages",
        "createMessage",
        "Answer a conversation in Anthropic's form, on any engine.",
        MessagesRequest,
        Message,
        events=MessageEvent,
        parameters=(_STREAM, IDEMPOTENCY),
        error=MessageError,
    ),
    _generation(
        "/v1/messages/count_tokens",
        "countMessageTokens",
        "Count the tokens of a message's prompt.",
        CountRequest,
        TokenCount,
        parameters=(IDEMPOTENCY,),
        error=MessageError,
    ),
    _resume(
        "/v1/messages/{id}/stream",
        "resumeMessage",
        Message,
        MessageEvent,
        parameters=(_ID, _AFTER_EVENT, _LAST_MESSAGE_EVENT),
        error=MessageError,
    ),
    _cancel("/v1/messages/{id}/cancel", "cancelMessage", CancelledMessage, error=MessageError),
    _generation(
        "/v1/completions",
        "createCompletion",
        "Continue a text (legacy). Unknown fields pass through to the engine.",
        CompletionRequest,
        Completion,
        events=Completion,
        parameters=(_STREAM, IDEMPOTENCY),
    ),
    _resume("/v1/completions/{id}/stream", "resumeCompletion", Completion, Completion),
    _cancel("/v1/completions/{id}/cancel", "cancelCompletion"),
    _generation(
        "/v1/embeddings",
        "createEmbeddings",
        "Turn texts into vectors.",
        EmbeddingRequest,
        EmbeddingList,
        parameters=(IDEMPOTENCY,),
    ),
)
