"""The server itself: models, credentials, health."""

from typing import Final

from msgspec import Struct

from edge.openapi.operation import KNOWN, Operation, Parameter
from edge.routes.health import Health, Readiness
from schemas.api.admin import ProviderList
from schemas.api.auth import Guest, LoggedOut, LogoutRequest, Me, RefreshRequest, TokenPair
from schemas.api.models import Model, ModelList

_MODEL = Parameter(
    "id", "path", "The model's id; it may contain slashes.", {"type": "string", "minLength": 1}
)


class Jwks(Struct):
    """The public keys of access tokens."""

    keys: list[dict[str, str]]


OPERATIONS: Final = (    Operation(
        "/v1/models", "get", "listModels", "All models that are served.", ModelList,
        errors=KNOWN, public=False,
    ),
    Operation(
        "/v1/models/{id}", "get", "retrieveModel", "One model.", Model,
        parameters=(_MODEL,), errors=KNOWN, public=False,
    ),
    Operation(
        "/v1/admin/providers", "get", "listProviders",
        "Every deployment, its breaker and its figures. Needs a key with the scope `admin`.",
        ProviderList, errors=KNOWN, public=False,
    ),
    Operation(
        "/auth/guest", "post", "createGuest", "Become a guest.", Guest,
        status=201, errors=(400, 403, 405, 413, 429, 500, 503),
    ),
    Operation(
        "/auth/guest-login", "post", "guestLogin", "Become a guest.", Guest,
        status=201, errors=(400, 403, 405, 413, 429, 500, 503),
    ),
    Operation(
        "/auth/refresh-token", "post", "refreshToken",
        "Exchange a refresh token, once, for new tokens. Its reuse ends the session.",
        TokenPair, takes=RefreshRequest, errors=(400, 401, 405, 413, 500, 503),
    ),
    Operation(
        "/auth/logout", "post", "logout", "End the session of a refresh or access token.",
        LoggedOut, takes=LogoutRequest, body_required=False, errors=(400, 405, 413, 500, 503),
    ),
    Operation(
        "/auth/logout", "get", "logoutByToken", "End the session of the access token.",
        LoggedOut, errors=(400, 405, 413, 500, 503),
    ),
    Operation(
        "/auth/me", "get", "me", "Who the credential stands for.", Me,
        errors=(400, 401, 405, 500), public=False,
    ),
    Operation("/auth/jwks", "get", "jwks", "The public keys of access tokens.", Jwks),
    Operation(
        "/.well-known/jwks.json", "get", "wellKnownJwks", "The public keys of access tokens.", Jwks
    ),
    Operation("/healthz", "get", "healthz", "The process answers.", Health),
    Operation(
        "/readyz", "get", "readyz", "What the server depends on, each by name.", Readiness,
        also=(503,),
    ),
    Operation("/metrics", "get", "metrics", "Figures for Prometheus.", "text/plain"),
)  # fmt: skip
