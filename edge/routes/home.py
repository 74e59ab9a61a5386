"""The small page at `/`: where everything is, and whether it works."""

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from edge.routes.docs import STATIC
from edge.state import state_of

_PLACE = "<!-- provider -->"
_TOYS = {"jan", "simulated"}  # the owners of what comes along


def create_routes() -> list[BaseRoute]:
    """Build the route; the page is read once, here."""
    page = (STATIC / "home.html").read_text()
    hint = (STATIC / "provider.html").read_text()
    attached, bare = page.replace(_PLACE, ""), page.replace(_PLACE, hint)

    async def home(request: Request) -> Response:
        """GET /: the page; with only what comes along it says how to attach a real model."""
        owners = state_of(request.scope)["models"].owners()
        return HTMLResponse(bare if owners <= _TOYS else attached)

    return [Route("/", home, methods=["GET"])]
