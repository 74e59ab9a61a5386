"""/v1/webhooks: the secret that a caller's webhooks are signed with."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge.generation import to_caller
from edge.state import state_of


async def retrieve_secret(request: Request) -> Response:
    """GET /v1/webhooks/secret: the caller's own, for `client.webhooks.unwrap`."""
    principal = to_caller(request.scope).principal
    secret = state_of(request.scope)["webhooks"].secret_of(principal)
    told = {"object": "webhook.secret", "secret": secret}
    headers = {"cache-control": "no-store"}
    return Response(msgspec.json.encode(told), headers=headers, media_type="application/json")


ROUTES: list[BaseRoute] = [Route("/v1/webhooks/secret", retrieve_secret, methods=["GET"])]
