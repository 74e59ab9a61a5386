"""Export and import of conversations."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from edge import exports, imports
from edge.requests import answer_json, read_query, stored_of
from edge.state import state_of
from schemas.api import conversations as api
from schemas.commands import encode

JSON: Final = "application/json"
JSON_LINES: Final = "application/jsonl"
MARKDOWN: Final = "text/markdown; charset=utf-8"


async def export_conversation(request: Request) -> Response:
    """GET /v1/conversations/{id}/export: all branches as JSON, or the active one as Markdown."""
    stored, caller = stored_of(request)
    conversation = request.path_params["id"]
    given = {"format": request.query_params.get("format", "json")}
    if read_query(given, api.ExportQuery).format == "markdown":
        branch = await exports.read_active(stored, caller.principal, conversation)
        pages = exports.read_pages(stored, caller.principal, conversation, branch=branch)
        return await _download(exports.to_markdown(pages), f"{conversation}.md", MARKDOWN)
    pages = exports.read_pages(stored, caller.principal, conversation)
    return await _download(exports.to_json(pages), f"{conversation}.json", JSON)


async def export_conversations(request: Request) -> Response:
    """POST /v1/conversations/export: all of the caller's as JSON Lines, sent or stored."""
    stored, caller = stored_of(request)
    given = {"store": request.query_params.get("store", "false")}
    if read_query(given, api.ExportQuery).store:
        objects = state_of(request.scope)["objects"]
        told = await exports.store(objects, stored, caller.principal)
        return answer_json(encode(told), status=201)
    lines = exports.to_json_lines(stored, caller.principal)
    return await _download(lines, "conversations.jsonl", JSON_LINES)


async def download_export(request: Request) -> Response:
    """GET /v1/conversations/exports/{export_id}: what was stored, for its owner only."""
    _, caller = stored_of(request)
    objects = state_of(request.scope)["objects"]
    manifest = await exports.find(objects, caller.principal, request.path_params["export_id"])
    parts = exports.read_parts(objects, manifest)
    length = {"content-length": str(manifest.told.bytes)}
    return await _download(parts, "conversations.jsonl", JSON_LINES, length)


async def import_conversations(request: Request) -> Response:
    """POST /v1/conversations/import: what an export has written, under new ids."""
    stored, caller = stored_of(request)
    body = await request.body()
    read = await asyncio.to_thread(imports.read_import, body)  # streams go on meanwhile
    made = await imports.carry_out(stored, caller, read)
    return answer_json(encode(api.Imported(data=made)))


async def _download(
    pieces: AsyncIterator[bytes],
    name: str,
    kind: str,
    headers: dict[str, str] | None = None,
) -> Response:
    """Answer with a file. What fails before its first piece is an error like any other."""
    first = await anext(pieces, b"")

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    told: dict[str, Any] = {
        "content-disposition": f'attachment; filename="{name}"',
        "cache-control": "no-store",
        **(headers or {}),
    }
    return StreamingResponse(whole(), headers=told, media_type=kind)


ROUTES: list[BaseRoute] = [
    Route("/v1/conversations/{id}/export", export_conversation, methods=["GET"]),
    Route("/v1/conversations/export", export_conversations, methods=["POST"]),
    Route("/v1/conversations/exports/{export_id}", download_export, methods=["GET"]),
    Route("/v1/conversations/import", import_conversations, methods=["POST"]),
]
