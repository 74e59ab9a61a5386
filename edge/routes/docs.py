"""The API's description, and Swagger UI to try it. Both are public and work offline."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from edge.openapi import document as openapi

STATIC = Path(__file__).parents[1] / "static"


def create_routes() -> list[BaseRoute]:
    """Build the routes; the document is made once, here."""
    document = openapi.encode(openapi.describe())

    async def openapi_json(_request: Request) -> Response:
        """GET /v1/openapi.json: this API in OpenAPI 3.1."""
        return Response(document, media_type="application/json")

    return [
        Route("/v1/openapi.json", openapi_json, methods=["GET"]),
        Route("/v1/swagger", to_swagger, methods=["GET"]),
        Mount("/v1/swagger", _Pages(directory=STATIC / "swagger", html=True)),
    ]


class _Pages(StaticFiles):
    """Files, served whole: what Starlette says about ranges is not in the one envelope."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Answer a request for a file."""
        scope["headers"] = [item for item in scope["headers"] if item[0] != b"range"]
        return await super().get_response(path, scope)


async def to_swagger(_request: Request) -> Response:
    """GET /v1/swagger: go to the page."""
    return RedirectResponse("/v1/swagger/index.html")
