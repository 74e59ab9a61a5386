"""A route is found by its start as it would be by trying all of them."""

import re

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from edge.app import create_routes
from edge.routing import Routing


def telling(route: BaseRoute) -> BaseRoute:
    """The same route, which only says which one it is."""
    assert isinstance(route, Route | Mount)

    async def tell(request: Request) -> Response:
        request.scope["told"].append(route)
        return Response()

    async def tell_as_app(scope: Scope, _receive: Receive, _send: Send) -> None:
        scope["told"].append(route)

    if isinstance(route, Mount):
        return Mount(route.path, tell_as_app)
    return Route(route.path, tell, methods=list(route.methods or ()))


async def nothing(scope: Scope, _receive: Receive, _send: Send) -> None:
    scope["told"].append(None)


async def route_of(app: ASGIApp, method: str, path: str) -> object:
    told: list[object] = []

    async def send(_message: object) -> None:
        pass

    async def receive() -> dict[str, object]:
        return {"type": "http.request"}

    scope = {"type": "http", "method": method, "path": path, "headers": [], "told": told}
    await app(scope, receive, send)
    return told[0] if told else "not its method"


def paths_of(routes: list[BaseRoute]) -> set[str]:
    """A path that each of them takes, and some that none does, or not by its own start."""
    templates = [route.path for route in routes if isinstance(route, Route | Mount)]
    filled = {re.sub("{[^}]*}", "x", path.replace(":path}", "}/x")) for path in templates}
    return filled | {
        "",
        "/v1",
        "/v1/",
        "/v1/none/x",
        "//v1/models",
        "/healthz/",
        "/v1/swagger/index.html",
    }


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
async def test_a_route_is_found_by_its_start(method: str) -> None:
    routes = [telling(route) for route in create_routes()]
    by_start = Routing(routes, nothing)
    one_by_one = Router(routes, redirect_slashes=False, default=nothing)
    for path in paths_of(routes):
        expected = await route_of(one_by_one, method, path)
        assert await route_of(by_start, method, path) == expected, path


async def test_a_route_that_may_start_in_any_way_is_tried_in_its_place() -> None:
    routes = [telling(Route("/v1/a/{x}", nothing)), telling(Mount("/v1", nothing))]
    routes += [telling(Route("/v1/a/b", nothing)), telling(Route("/{x}/c", nothing))]
    found = [
        await route_of(Routing(routes, nothing), "GET", p) for p in ("/v1/a/b", "/v1/z/y", "/q/c")
    ]
    assert [getattr(route, "path", None) for route in found] == ["/v1/a/{x}", "/v1", "/{x}/c"]
