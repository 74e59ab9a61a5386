"""/v1/embeddings: vectors for texts. Never streamed."""

from starlette.routing import BaseRoute, Route

from edge.generation import Start
from edge.orders import Order
from schemas.api import embeddings


def to_order(body: bytes, stream: bool) -> Order:  # noqa: ARG001 (embeddings have no stream)
    """Validate an embeddings request. Raises InvalidRequest naming the field."""
    return Order(kind="embedding", model=embeddings.decode_request(body).model, body=body)


ROUTES: list[BaseRoute] = [Route("/v1/embeddings", Start(to_order), methods=["POST"])]
