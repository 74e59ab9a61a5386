"""/auth: guests, tokens, who one is; and the keys that verify our tokens."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge.auth import Principal
from edge.state import EdgeState, state_of
from schemas import ids
from schemas.api.auth import Guest, LoggedOut, Me, decode_logout, decode_refresh
from schemas.errors import BodyTooLarge, Forbidden, Unauthorized

_MAX_BODY = 16 * 1024  # bytes; anybody may send one here


async def create_guest(request: Request) -> Response:
    """POST /auth/guest, /auth/guest-login: become a guest. A body is not looked at."""
    state = state_of(request.scope)
    settings = state["settings"]
    if not settings.guests:
        raise Forbidden("guests are not admitted here", code="guests_disabled")
    state["creations"].take(request.client.host if request.client else "unknown")
    user_id = ids.new_id("user_")
    username = f"guest-{user_id[-10:]}"
    pair = await state["sessions"].open(user_id, username, guest=True)
    guest = Guest(
        user_id=user_id, principal_id=user_id, username=username, **msgspec.structs.asdict(pair)
    )
    return _json(guest, 201)


async def refresh_token(request: Request) -> Response:
    """POST /auth/refresh-token: exchange a refresh token, once, for new tokens."""
    wanted = decode_refresh(await _read_body(request))
    return _json(await state_of(request.scope)["sessions"].refresh(wanted.refresh_token))


async def logout(request: Request) -> Response:
    """POST or GET /auth/logout: end the session of the refresh token or of the access token.

    Who has no session is logged out already.
    """
    state = state_of(request.scope)
    body = await _read_body(request)
    token = decode_logout(body).refresh_token if body.strip() else None
    if token is not None:
        await state["sessions"].end_by_token(token)
    try:
        principal = _authenticate(request, state)
    except Unauthorized:
        return _json(LoggedOut())
    if principal.session is not None:
        await state["sessions"].end(principal.session)
    return _json(LoggedOut())


async def me(request: Request) -> Response:
    """GET /auth/me: who the credential stands for."""
    state = state_of(request.scope)
    principal = state["principal"] = _authenticate(request, state)
    return _json(
        Me(
            id=principal.id,
            username=principal.username,
            subject=principal.id,
            auth_method=principal.method,
            name=principal.username,
            roles=["guest" if principal.guest else "user"],
            scopes=list(principal.scopes),
            is_guest=principal.guest,
            is_admin=False,
        )
    )


async def jwks(request: Request) -> Response:
    """GET /.well-known/jwks.json, /auth/jwks: the public keys of access tokens."""
    keys = state_of(request.scope)["issuer"].jwks()
    return Response(
        msgspec.json.encode(keys),
        media_type="application/json",
        headers={"cache-control": "public, max-age=300"},
    )


def _authenticate(request: Request, state: EdgeState) -> Principal:
    return state["authenticator"].authenticate(dict(request.scope["headers"]))


async def _read_body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY:
            raise BodyTooLarge(f"the body is larger than {_MAX_BODY} bytes")
    return body


def _json(value: msgspec.Struct, status: int = 200) -> Response:
    # Tokens must not lie in a cache.
    return Response(
        msgspec.json.encode(value),
        status,
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )


ROUTES: list[BaseRoute] = [
    Route("/auth/guest", create_guest, methods=["POST"]),
    Route("/auth/guest-login", create_guest, methods=["POST"]),
    Route("/auth/refresh-token", refresh_token, methods=["POST"]),
    Route("/auth/logout", logout, methods=["GET", "POST"]),
    Route("/auth/me", me, methods=["GET"]),
    Route("/auth/jwks", jwks, methods=["GET"]),
    Route("/.well-known/jwks.json", jwks, methods=["GET"]),
]
