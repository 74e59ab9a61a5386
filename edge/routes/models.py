"""/v1/models: what is served."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge.state import state_of


async def list_models(request: Request) -> Response:
    """GET /v1/models: all models that are served, with how each is doing."""
    return Response(state_of(request.scope)["models"].listing(), media_type="application/json")


async def retrieve_model(request: Request) -> Response:
    """GET /v1/models/{id}: one model; ids may contain slashes."""
    model = state_of(request.scope)["models"].describe(request.path_params["id"])
    return Response(model, media_type="application/json")


ROUTES: list[BaseRoute] = [
    Route("/v1/models", list_models, methods=["GET"]),
    Route("/v1/models/{id:path}", retrieve_model, methods=["GET"]),
]
