"""The edge's application: what it opens, what it serves, what every request passes through."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from bus import Bucket, open_bus, open_store, open_tool_catalogue
from edge.admission import Admission
from edge.auth import Authenticator, GuestLimits
from edge.catalogue import Models
from edge.deployments import Deployments
from edge.errors import unknown_route
from edge.exports import expiring
from edge.inbox import open_inbox
from edge.issuer import Issuer
from edge.keys import Keys
from edge.limits import Creations, Limits, Readers
from edge.mcp.endpoint import open_endpoint
from edge.mcp.guard import Guard
from edge.mcp.server import create_manager
from edge.metrics import Metrics
from edge.middleware import Authentication, Envelope, Errors, Hygiene, Limiting
from edge.presence import Presence, open_presence
from edge.recorded import Requests
from edge.replays import Replays
from edge.responses.lookup import Lookup
from edge.responses.prepare import Preparation
from edge.responses.references import References
from edge.responses.replaying import Repeating
from edge.responses.socket import ResponsesSocket
from edge.routes import (
    admin,
    artifacts,
    auth,
    branches,
    chat,
    completions,
    conversations,
    docs,
    embeddings,
    health,
    home,
    mcp,
    messages,
    models,
    projects,
    prompts,
    replay,
    responses,
    settings,
    shares,
    stored,
    tools,
    transfers,
    turns,
    usage,
    users,
    webhooks,
)
from edge.routes import runs as run_routes
from edge.routing import Routing
from edge.runs import RunOptions, Runs, open_runs
from edge.sessions import REVOKED, Revoked, Sessions
from edge.settings import EdgeSettings
from edge.state import EdgeState
from edge.stored import Positions, Stored
from edge.tool_calls import CallOptions, ToolCalls, open_tool_calls
from edge.webhooks import Webhooks
from schemas import subjects
from schemas.health import DEPLOYMENTS
from schemas.outbound import Outbound

_EXPOSED = (
    "x-request-id",
    "request-id",
    "x-run-id",
    "x-principal-id",
    "x-auth-method",
    "x-scopes",
    "openai-processing-ms",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "etag",
    "www-authenticate",
    "mcp-session-id",
    "x-conversation-id",
    "x-conversation-branch",
    "x-conversation-trimmed",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "traceparent",
)


def create_routes() -> list[BaseRoute]:
    """List everything that is served. Those of one start, `/v1/<noun>`, are tried in this order."""
    return [
        *chat.ROUTES,
        *responses.ROUTES,
        *messages.ROUTES,
        *completions.ROUTES,
        *embeddings.ROUTES,
        *mcp.ROUTES,
        *models.ROUTES,
        *replay.ROUTES,
        *transfers.ROUTES,
        *conversations.ROUTES,
        *branches.ROUTES,
        *shares.ROUTES,
        *users.ROUTES,
        *run_routes.ROUTES,
        *projects.ROUTES,
        *prompts.ROUTES,
        *settings.ROUTES,
        *turns.ROUTES,
        *stored.ROUTES,
        *usage.ROUTES,
        *webhooks.ROUTES,
        *tools.ROUTES,
        *admin.ROUTES,
        *artifacts.ROUTES,
        *auth.ROUTES,
        *health.ROUTES,
        *docs.create_routes(),
        *home.create_routes(),
    ]


def create_app(settings: EdgeSettings) -> ASGIApp:
    """Build the application; the outermost wrapper comes last.

    It serves HTTP only, and finds in each request's state what `open_edge` opened.
    """
    routes = create_routes()
    app: ASGIApp = Routing(routes, _not_found)
    app = Limiting(app)
    app = Authentication(app)
    app = Hygiene(app, settings.max_body)
    app = Errors(app, routes)
    if settings.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
            max_age=600,
        )
    return ResponsesSocket(Envelope(app))


@asynccontextmanager
async def open_edge(settings: EdgeSettings, port: int) -> AsyncIterator[EdgeState]:
    """Open everything that requests use, for the context's life. `port` is told to others."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        nats_url = settings.nats_url.get_secret_value()
        bus = await enter(open_bus(nats_url, name=settings.name, patient=True))
        objects = open_store(
            settings.data / "objects",
            s3_url=settings.s3_url,
            s3_bucket=settings.s3_bucket,
            access_key=settings.s3_access_key,
            secret=settings.s3_secret_key.get_secret_value(),
        )
        presence = Presence(
            bus,
            settings.name,
            lambda: {"host": settings.host, "port": port, "running": len(runs)},
        )

        deployments = Deployments(presence.inference)
        admission = Admission(standing=deployments)
        catalogue = Models(admission.update, deployments.status_of)
        metrics = Metrics(catalogue)
        inbox = await enter(open_inbox(bus, settings.name))
        runs = await enter(
            open_runs(
                Runs(
                    bus,
                    inbox,
                    objects,
                    admission,
                    to_run_options(settings),
                    has_peers=presence.has_peers,
                )
            )
        )
        metrics.watch("jan_edge_runs_read", "Runs that clients read here", lambda: len(runs))
        await enter(open_presence(presence))
        states = Bucket(bus, subjects.KV_HEALTH)
        await enter(_watching(states, deployments.on_change, prefix=DEPLOYMENTS))

        keys, revoked = Keys(settings.key_secret), Revoked(settings.access_lifetime)
        await enter(_watching(Bucket(bus, subjects.KV_MODELS), catalogue.on_change))
        await enter(_watching(Bucket(bus, subjects.KV_KEYS), keys.on_change))
        sessions = Bucket(bus, subjects.KV_SESSIONS)
        await enter(_watching(sessions, revoked.on_change, prefix=REVOKED))
        issuer = Issuer(
            settings.jwt_folder, issuer=settings.jwt_issuer, audience=settings.jwt_audience
        )
        await enter(expiring(objects))
        guests = GuestLimits(settings.guest_rpm, settings.guest_in_flight)
        kept = Stored(
            bus,
            Positions(Bucket(bus, subjects.KV_POSITIONS), presence.has_peers),
            patience=settings.write_patience,
        )
        sealing_key = settings.sealing_key.get_secret_value()
        references = References(kept.ask, sealing_key)
        hooks = Webhooks(kept.ask, Outbound(settings.outbound_allow), sealing_key)
        catalogue_of_tools = await enter(open_tool_catalogue(bus))
        options = CallOptions(settings.name, settings.log_content)
        calls = await enter(open_tool_calls(ToolCalls(bus, inbox, catalogue_of_tools, options)))
        guard = Guard(settings.mcp_hosts, settings.cors_origins)
        endpoint = await enter(open_endpoint(create_manager(catalogue_of_tools), calls, guard))
        yield {
            "settings": settings,
            "bus": bus,
            "objects_probe": health.ObjectsProbe(objects),
            "models": catalogue,
            "deployments": deployments,
            "runs": runs,
            "inbox": inbox,
            "preparation": Preparation(runs, references, hooks),
            "responses": Lookup(bus, inbox, kept, settings.key_secret),
            "replays": Replays(
                bus,
                inbox,
                Requests(objects, kept.ask, references),
                admission.targets,
                Repeating(kept.ask),
                deadline=settings.run_deadline,
            ),
            "stored": kept,
            "keys": keys,
            "authenticator": Authenticator(keys, issuer, guests, revoked),
            "issuer": issuer,
            "sessions": Sessions(
                sessions,
                issuer,
                revoked,
                access_lifetime=settings.access_lifetime,
                refresh_lifetime=settings.refresh_lifetime,
            ),
            "limits": Limits(presence.edges),
            "creations": Creations(settings.guest_creations, presence.edges),
            "readers": Readers(settings.share_reads, presence.edges),
            "objects": objects,
            "presence": presence,
            "metrics": metrics,
            "tools": catalogue_of_tools,
            "tool_calls": calls,
            "webhooks": hooks,
            "mcp": endpoint,
        }


def to_run_options(settings: EdgeSettings) -> RunOptions:
    """Pick what runs need to know of the settings."""
    return RunOptions(
        edge=settings.name,
        secret=settings.key_secret,
        deadline=settings.run_deadline,
        grace=settings.disconnect_grace,
        keyed_grace=settings.disconnect_grace_idempotent,
        first_frame_wait=settings.first_frame_wait,
        heartbeat=settings.heartbeat,
        log_content=settings.log_content,
    )


@asynccontextmanager
async def _watching(
    bucket: Bucket, on_change: Callable[[str, bytes | None, int], None], *, prefix: str = ""
) -> AsyncIterator[None]:
    watch = await bucket.watch(on_change, prefix=prefix)
    try:
        yield
    finally:
        await watch.stop()


async def _not_found(scope: Scope, _receive: Receive, _send: Send) -> None:
    raise unknown_route(scope)
