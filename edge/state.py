"""What the lifespan opens and every request finds in `scope["state"]`."""

from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

from starlette.types import Scope

if TYPE_CHECKING:
    from bus.connection import Bus
    from bus.objects import ObjectStore
    from bus.tool_catalogue import ToolCatalogue
    from edge.auth import Authenticator, Principal
    from edge.catalogue import Models
    from edge.deployments import Deployments
    from edge.inbox import Inbox
    from edge.issuer import Issuer
    from edge.keys import Keys
    from edge.limits import Creations, Limits, Readers, Standing
    from edge.mcp.endpoint import Endpoint
    from edge.metrics import Metrics
    from edge.presence import Presence
    from edge.replays import Replays
    from edge.responses.lookup import Lookup
    from edge.responses.prepare import Preparation
    from edge.responses.said import Said
    from edge.routes.health import ObjectsProbe
    from edge.runs import Runs
    from edge.sessions import Sessions
    from edge.settings import EdgeSettings
    from edge.stored import Stored
    from edge.tool_calls import ToolCalls
    from edge.webhooks import Webhooks


class EdgeState(TypedDict):
    """The services of an edge; the server copies it for each request, which adds the last ones."""

    settings: "EdgeSettings"
    bus: "Bus"
    objects_probe: "ObjectsProbe"
    models: "Models"
    deployments: "Deployments"
    runs: "Runs"
    inbox: "Inbox"
    preparation: "Preparation"
    responses: "Lookup"
    replays: "Replays"
    stored: "Stored"
    authenticator: "Authenticator"
    keys: "Keys"
    issuer: "Issuer"
    sessions: "Sessions"
    limits: "Limits"
    creations: "Creations"
    readers: "Readers"
    objects: "ObjectStore"
    presence: "Presence"
    metrics: "Metrics"
    tools: "ToolCatalogue"
    tool_calls: "ToolCalls"
    webhooks: "Webhooks"
    mcp: "Endpoint"

    request_id: NotRequired[str]
    traceparent: NotRequired[str | None]
    principal: NotRequired["Principal"]
    standing: NotRequired["Standing"]
    said_before: NotRequired["Said | None"]  # on the same WebSocket
    said: NotRequired["Said | None"]  # there, with this response too
    answered: NotRequired[bool]  # the answer's head has been sent


def state_of(scope: Scope) -> EdgeState:
    """Read a request's state with its types."""
    return cast(EdgeState, scope["state"])
