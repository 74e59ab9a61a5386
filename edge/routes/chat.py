"""/v1/chat/completions: start, resume and cancel a chat completion."""

import msgspec
from starlette.routing import BaseRoute, Route

from edge.generation import Cancel, Resume, Start
from edge.orders import Into, Order
from schemas.api import chat
from schemas.api.fields import require_stream
from schemas.api.items import MAX_ITEMS_BYTES, require_json
from schemas.api.needs import needs_of
from schemas.errors import InvalidRequest


class _Said(msgspec.Struct):
    messages: msgspec.Raw = msgspec.Raw(b"[]")


_decode_said = msgspec.json.Decoder(_Said).decode


def to_order(body: bytes, stream: bool) -> Order:
    """Validate a chat request. Raises InvalidRequest naming the field."""
    request = chat.decode_request(body)
    return order_of(request, body, stream, to_into(request))


def order_of(request: chat.ChatRequest, body: bytes, stream: bool, into: Into | None) -> Order:
    """What a checked request asks for. Raises InvalidRequest."""
    options = request.stream_options
    stream = stream or bool(request.stream)
    require_stream(options, stream)
    if request.prompt is not None:
        raise InvalidRequest("only /v1/chat/completions takes a prompt", param="prompt")
    if request.store and len(body) > MAX_ITEMS_BYTES:
        raise InvalidRequest(
            f"a request of more than {MAX_ITEMS_BYTES} bytes is not stored", param="store"
        )
    if request.store or (into is not None and into.keep):
        require_json(_decode_said(body).messages, "messages")
    return Order(
        kind="chat",
        model=request.model,
        body=body,
        stream=stream,
        include_usage=options is not None and bool(options.include_usage),
        needs=needs_of(request),
        into=into,
        store=bool(request.store),
    )


def to_into(request: chat.ChatRequest) -> Into | None:
    """The conversation that a request names; it is kept out of it with `store: false`."""
    named, keep = request.conversation, request.store is not False
    if isinstance(named, chat.ConversationRef):
        return Into(named.id, named.branch, keep)
    return Into(named, None, keep) if named is not None else None


ROUTES: list[BaseRoute] = [
    Route("/v1/chat/completions", Start(to_order, prompted=True), methods=["POST"]),
    Route("/v1/chat/completions/{id}/stream", Resume("chat"), methods=["GET"]),
    Route("/v1/chat/completions/{id}/cancel", Cancel("chat"), methods=["POST"]),
]
