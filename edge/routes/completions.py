"""/v1/completions: start, resume and cancel a text completion."""

from starlette.routing import BaseRoute, Route

from edge.generation import Cancel, Resume, Start
from edge.orders import Order
from schemas.api import completions
from schemas.api.fields import require_stream


def to_order(body: bytes, stream: bool) -> Order:
    """Validate a completion request. Raises InvalidRequest naming the field."""
    request = completions.decode_request(body)
    options = request.stream_options
    stream = stream or bool(request.stream)
    require_stream(options, stream)
    return Order(
        kind="completion",
        model=request.model,
        body=body,
        stream=stream,
        include_usage=options is not None and bool(options.include_usage),
    )


ROUTES: list[BaseRoute] = [
    Route("/v1/completions", Start(to_order), methods=["POST"]),
    Route("/v1/completions/{id}/stream", Resume("completion"), methods=["GET"]),
    Route("/v1/completions/{id}/cancel", Cancel("completion"), methods=["POST"]),
]
