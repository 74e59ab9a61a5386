"""Which route serves a request: found by the first two parts of its path, `/v1/<noun>`.

Starlette tries its routes one after the other, and there are more than a hundred.
"""

from collections.abc import Sequence

from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send


class Routing:
    """Routes, in the order in which they are tried. `default` serves what none of them takes."""

    def __init__(self, routes: Sequence[BaseRoute], default: ASGIApp) -> None:
        def router(start: str | None) -> Router:
            tried = [route for route in routes if _start_of(route) in (start, None)]
            return Router(tried, redirect_slashes=False, default=default)

        starts = {_start_of(route) for route in routes}
        self._by_start = {start: router(start) for start in starts if start is not None}
        self._others = router(None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        router = self._by_start.get(_start(scope["path"]), self._others)
        await router(scope, receive, send)


def _start(path: str) -> str:
    return "/".join(path.split("/", 3)[:3])


def _start_of(route: BaseRoute) -> str | None:
    """How all paths of a route start; None if they may start in several ways."""
    if not isinstance(route, Route | Mount):
        return None
    start = _start(route.path)
    is_whole = isinstance(route, Route) or start.count("/") == 2
    return start if is_whole and "{" not in start else None
