"""Shares: their owners make and revoke them, everybody reads them."""

import hashlib
import re
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge.requests import (
    answer_json,
    read_body,
    read_paging,
    read_query,
    read_version,
    stored_of,
)
from edge.state import state_of
from schemas import writes
from schemas.api import conversations as api
from schemas.errors import NotFound
from schemas.queries.shares import AskPublicShare, AskShares

NOUN: Final = "shares"
_SLUG: Final = re.compile(r"[0-9A-Za-z]{22}")
# A cache asks each time whether it is still shared; who has it already is told so in a few bytes.
_PUBLIC_HEADERS: Final = {
    "cache-control": "no-cache",
    "x-robots-tag": "noindex",
    "referrer-policy": "no-referrer",
}


async def create_share(request: Request) -> Response:
    """POST /v1/conversations/{id}/share: what is there now, for everybody who knows the slug."""
    stored, caller = stored_of(request)
    given = await read_body(request, api.decode_create_share)
    body = writes.CreateShare(
        conversation=request.path_params["id"],
        scope=given.scope,
        item=given.item_id,
        title=given.title,
        branch=given.branch,
        include_images=given.include_images,
        include_context_messages=given.include_context_messages,
        version=read_version(request),
    )
    return answer_json(await stored.command(NOUN, "create", caller, body), status=201)


async def list_shares(request: Request) -> Response:
    """GET /v1/shares, /v1/conversations/{id}/shares: newest first, revoked ones if asked for."""
    stored, caller = stored_of(request)
    given = {"include_revoked": request.query_params.get("include_revoked", "false")}
    question = AskShares(
        principal=caller.principal,
        paging=read_paging(request),
        conversation=request.path_params.get("id"),
        include_revoked=read_query(given, api.SharesQuery).include_revoked,
    )
    return answer_json(await stored.ask(NOUN, "list", question))


async def revoke_share(request: Request) -> Response:
    """DELETE /v1/shares/{share_id}, /v1/conversations/{id}/shares/{share_id}: for good."""
    stored, caller = stored_of(request)
    body = writes.RevokeShare(
        id=request.path_params["share_id"], conversation=request.path_params.get("id")
    )
    return answer_json(await stored.command(NOUN, "revoke", caller, body))


async def read_public_share(request: Request) -> Response:
    """GET /v1/public/shares/{slug}: no credential is needed."""
    state = state_of(request.scope)
    state["readers"].take(request.client.host if request.client else "unknown")
    slug = request.path_params["slug"]
    if _SLUG.fullmatch(slug) is None:
        raise NotFound("there is no such share")
    body = await state["stored"].ask(NOUN, "public", AskPublicShare(slug=slug))
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = _PUBLIC_HEADERS | {"etag": etag}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return answer_json(body, headers=headers)


_OF_ONE: Final = "/v1/conversations/{id}"
ROUTES: list[BaseRoute] = [
    Route(f"{_OF_ONE}/share", create_share, methods=["POST"]),
    Route(f"{_OF_ONE}/shares", list_shares, methods=["GET"]),
    Route(f"{_OF_ONE}/shares/{{share_id}}", revoke_share, methods=["DELETE"]),
    Route("/v1/shares", list_shares, methods=["GET"]),
    Route("/v1/shares/{share_id}", revoke_share, methods=["DELETE"]),
    Route("/v1/public/shares/{slug}", read_public_share, methods=["GET"]),
]
