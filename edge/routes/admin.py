"""/v1/admin: what only an administrator may see."""

import time

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from edge.state import state_of
from schemas.api.admin import to_provider_list
from schemas.errors import Forbidden

ADMIN = "admin"  # the scope of a key: jan keys create --scope admin


async def list_providers(request: Request) -> Response:
    """GET /v1/admin/providers: every deployment, its breaker and its figures."""
    require_admin(request.scope)
    state = state_of(request.scope)
    catalogue, deployments = state["models"].catalogue, state["deployments"]
    states = {
        deployment.id: deployments.state_of(deployment.id)
        for model in catalogue.models
        for deployment in model.deployments
    }
    told = to_provider_list(catalogue, states, deployments.workers(), time.time())
    return Response(
        msgspec.json.encode(told),
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )


def require_admin(scope: Scope) -> None:
    """Let only administrators pass. Raises Forbidden."""
    if ADMIN not in state_of(scope)["principal"].scopes:
        raise Forbidden(
            f"this needs a key with the scope {ADMIN}: jan keys create --scope {ADMIN}",
            code="admin_required",
        )


ROUTES: list[BaseRoute] = [Route("/v1/admin/providers", list_providers, methods=["GET"])]
