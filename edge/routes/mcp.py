"""/mcp: this server's tools for clients that speak the Model Context Protocol."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from edge.mcp import metadata
from edge.state import state_of


class Serve:
    """POST /mcp: one message. There is no stream to GET and no session to DELETE."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await state_of(scope)["mcp"].serve(scope, receive, send)


async def describe(request: Request) -> Response:
    """GET /.well-known/oauth-protected-resource…: how to get into what is at the path after it."""
    settings = state_of(request.scope)["settings"]
    base = metadata.base_of(
        request.scope["scheme"], dict(request.scope["headers"]), settings.public_url
    )
    path = request.scope["path"].removeprefix(metadata.WELL_KNOWN)
    told = metadata.describe(base, path, settings.authorization_servers)
    return Response(
        msgspec.json.encode(told),
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )


ROUTES: list[BaseRoute] = [
    *(Route(path, Serve(), methods=["POST"]) for path in metadata.PATHS),
    *(
        Route(metadata.WELL_KNOWN + path, describe, methods=["GET"])
        for path in ("", *metadata.PATHS)
    ),
]
