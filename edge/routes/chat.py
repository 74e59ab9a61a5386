"""/v1/chat/completions: start, resume and cancel a chat completion."""

from starlette.routing import BaseRoute, Route

from edge.generation import Cancel, Resume, Start
from edge.runs import Order
from schemas.api import chat
from schemas.api.fields import require_stream
from schemas.api.needs import needs_of


def to_order(body: bytes, stream: bool) -> Order:
    """Validate a chat request. Raises InvalidRequest naming the field."""
    request = chat.decode_request(body)
    options = request.stream_options
    stream = stream or bool(request.stream)
    require_stream(options, stream)
    return Order(
        kind="chat",
        model=request.model,
        body=body,
        stream=stream,
        include_usage=options is not None and bool(options.include_usage),
        needs=needs_of(request),
    )


ROUTES: list[BaseRoute] = [
    Route("/v1/chat/completions", Start(to_order, prompted=True), methods=["POST"]),
    Route("/v1/chat/completions/{id}/stream", Resume("chat"), methods=["GET"]),
    Route("/v1/chat/completions/{id}/cancel", Cancel("chat"), methods=["POST"]),
]
