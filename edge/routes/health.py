"""Is it alive, is it ready, and how is it doing."""

import asyncio
import time
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from bus.objects import ObjectStore
from edge.presence import Presence
from edge.state import EdgeState, state_of
from schemas.errors import JanError, NotFound

_OBJECTS_EVERY = 5.0  # seconds between looks at the object store
_OBJECTS_WAIT = 1.0
_PROBE = "probe"  # a key that nobody stores: the answer must be that it is not there

_State = Literal["ok", "down"]


class Check(Struct, frozen=True):
    """One dependency."""

    status: _State
    workers: int | UnsetType = UNSET
    models: int | UnsetType = UNSET
    loading: list[str] | UnsetType = UNSET  # what workers that are not ready yet say


class Readiness(Struct, frozen=True):
    """`degraded` still serves generations; `unavailable` does not."""

    status: Literal["ready", "degraded", "unavailable"]
    edge: str
    checks: dict[str, Check]


class Health(Struct, frozen=True):
    """The process lives."""

    status: Literal["ok"] = "ok"


class ObjectsProbe:
    """Looks at the object store now and then, not at each question."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._asked_at = float("-inf")
        self._up = False

    async def is_up(self) -> bool:
        """Tell whether the store answered lately."""
        now = time.monotonic()
        if now - self._asked_at > _OBJECTS_EVERY:
            self._up = await self._ask()
            self._asked_at = now  # not before: who asks meanwhile would get an answer of nobody's
        return self._up

    async def _ask(self) -> bool:
        try:
            await asyncio.wait_for(self._store.get(_PROBE), _OBJECTS_WAIT)
        except NotFound:
            return True
        except (JanError, OSError, TimeoutError):
            return False
        return True


async def healthz(_request: Request) -> Response:
    """GET /healthz: the process answers."""
    return Response(msgspec.json.encode(Health()), media_type="application/json")


async def readyz(request: Request) -> Response:
    """GET /readyz: what the server depends on, each by name."""
    readiness = await look_around(state_of(request.scope))
    return Response(
        msgspec.json.encode(readiness),
        503 if readiness.status == "unavailable" else 200,
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )


async def metrics(request: Request) -> Response:
    """GET /metrics: figures for Prometheus."""
    text = state_of(request.scope)["metrics"].text()
    return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})


async def look_around(state: EdgeState) -> Readiness:
    """Check every dependency. Without bus or inference nothing can be generated."""
    presence = state["presence"]
    connected = state["bus"].connected
    inference = presence.workers("inference") if connected else []
    checks = {
        "nats": _check(connected),
        "inference": Check(
            "ok" if inference else "down",
            workers=len(inference),
            loading=presence.loading("inference") or UNSET,
        ),
        "database": _check(connected and _has_database(presence)),
        "objects": _check(await state["objects_probe"].is_up()),
        "models": Check("ok" if len(state["models"]) else "down", models=len(state["models"])),
    }
    status: Literal["ready", "degraded", "unavailable"] = "ready"
    if any(check.status == "down" for check in checks.values()):
        status = "degraded"
    if not connected or not inference:
        status = "unavailable"
    return Readiness(status, state["settings"].name, checks)


def _has_database(presence: Presence) -> bool:
    """A persistence worker that does not say how its database is, has it."""
    workers = presence.workers("persistence")
    return any(worker.database in (None, True, "ok") for worker in workers)


def _check(up: bool) -> Check:
    return Check("ok" if up else "down")


ROUTES: list[BaseRoute] = [
    Route("/healthz", healthz, methods=["GET"]),
    Route("/readyz", readyz, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
]
